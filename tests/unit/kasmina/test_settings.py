"""Settings from a manifest, traces of isolated learning."""

from __future__ import annotations

import math

import pytest

from esper.kasmina import SeedSettings
from esper.kasmina.isolation import Trace
from leyline.resources.enums import Blend, Freeze, Objective


def test_a_trace_keeps_start_and_end_and_counts_what_is_not_finite():
    trace = Trace()
    for step in range(30):
        assert trace.record(float(30 - step), 1.0 + step)
    assert not trace.record(math.nan, 1.0)
    assert not trace.record(1.0, math.inf)
    assert trace.first == pytest.approx(25.5)
    assert trace.last == pytest.approx(5.5)
    assert (trace.smallest_norm, trace.largest_norm, trace.last_norm) == (1.0, 30.0, 30.0)
    assert (trace.nonfinite_losses, trace.nonfinite_gradients, trace.steps) == (1, 1, 32)
    assert Trace.from_dict(trace.to_dict()) == trace
    assert Trace.from_dict(Trace().to_dict()) == Trace()


def test_settings_take_names_and_manifests():
    from leyline.resources import TrainingRunSpec

    settings = SeedSettings(objective="Task", blend="Convex", freeze="Immediately")
    assert settings.objective is Objective.TASK
    assert settings.blend is Blend.CONVEX
    assert settings.freeze is Freeze.IMMEDIATELY
    spec = TrainingRunSpec.model_validate(
        {
            "seed": 5, "task": {"ref": "a:b"}, "slots": [{"path": "x"}], "training": {"epochs": 3},
            "seeds": {"objective": "Shadow", "graftingEpochs": 4}, "judge": {"mode": "Off"},
            "budget": {"parameters": 100}, "controller": {"maxRisk": 0.2, "approved": ["mlp"]},
        }
    )  # fmt: skip
    settings = SeedSettings.from_spec(spec)
    assert (settings.run_seed, settings.grafting_epochs, settings.parameters_limit) == (5, 4, 100)
    assert settings.objective is Objective.SHADOW
    assert not settings.judged
    assert settings.approved == {"mlp"}
    assert settings.max_risk == 0.2
