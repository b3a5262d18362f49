"""Taking seeds in flight through their stages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo import Order, OrderKind, SeedView, TamiyoController, Verdict
from leyline.lifecycle import Stage


def seed(stage: Stage, name: str = "blocks.0/0", *, ready: bool = True, **fields: Any) -> SeedView:
    return SeedView(name, name.rpartition("/")[0], stage, ready, blueprint="conv", artifact_id="a", **fields)


def orders(t: SimpleNamespace, *seeds: SeedView, spec: Any = None, **fields: Any) -> list[Order]:
    parts = spec or {"controller": {"policy": "Never"}}
    return TamiyoController(t.spec(**parts)).decide(t.view(seeds=seeds, **fields))


@pytest.mark.parametrize(
    ("stage", "target"),
    [
        (Stage.TRAINING, Stage.GRAFTING),
        (Stage.GRAFTING, Stage.STABILIZATION),
        (Stage.STABILIZATION, Stage.EVALUATING),
        (Stage.FINE_TUNING, Stage.FOSSILIZED),
    ],
)
def test_a_ready_seed_goes_on_and_no_other(t: SimpleNamespace, stage: Stage, target: Stage) -> None:
    (order,) = orders(t, seed(stage))
    assert (order.kind, order.seed, order.target) == (OrderKind.ADVANCE, "blocks.0/0", target)
    assert order.reason
    assert orders(t, seed(stage, ready=False)) == []


@pytest.mark.parametrize(
    "stage", [Stage.DORMANT, Stage.GERMINATED, Stage.LOADING, Stage.ERROR_RECOVERY, Stage.FOSSILIZED]
)
def test_stages_that_are_not_the_controllers_are_left_alone(t: SimpleNamespace, stage: Stage) -> None:
    assert orders(t, seed(stage)) == []


@pytest.mark.parametrize(("trainable", "target"), [(True, Stage.FINE_TUNING), (False, Stage.FOSSILIZED)])
def test_a_positive_verdict_keeps_the_seed(t: SimpleNamespace, trainable: bool, target: Stage) -> None:
    verdict = Verdict(True, "better by 0.05", {"effect": 0.05})
    (order,) = orders(t, seed(Stage.EVALUATING, verdict=verdict, trainable=trainable))
    assert (order.kind, order.target) == (OrderKind.ADVANCE, target)
    assert order.numbers == {"effect": 0.05}
    assert "better by 0.05" in order.reason


def test_a_negative_verdict_culls_the_seed(t: SimpleNamespace) -> None:
    (order,) = orders(t, seed(Stage.EVALUATING, verdict=Verdict(False, "no better")))
    assert (order.kind, order.target) == (OrderKind.CULL, Stage.CULLED)
    assert "no better" in order.reason


def test_without_a_verdict_the_seed_waits_and_says_so(t: SimpleNamespace) -> None:
    controller = TamiyoController(t.spec())
    assert controller.decide(t.view(seeds=[seed(Stage.EVALUATING)])) == []
    assert any("no verdict" in reason for reason in controller.log.last.refused)  # type: ignore[union-attr]


def test_without_a_judge_no_verdict_is_waited_for(t: SimpleNamespace) -> None:
    (order,) = orders(t, seed(Stage.EVALUATING), spec={"judge": {"mode": "Off"}})
    assert order.target is Stage.FINE_TUNING


def test_the_first_verdict_does_not_stand_in_for_the_second(t: SimpleNamespace) -> None:
    twice = {"judge": {"mode": "Twice"}}
    first = Verdict(True, stage=Stage.EVALUATING)
    assert orders(t, seed(Stage.FINE_TUNING, verdict=first), spec=twice) == []
    (kept,) = orders(t, seed(Stage.FINE_TUNING, verdict=Verdict(True, stage=Stage.FINE_TUNING)), spec=twice)
    assert kept.target is Stage.FOSSILIZED
    (culled,) = orders(t, seed(Stage.FINE_TUNING, verdict=Verdict(False, stage=Stage.FINE_TUNING)), spec=twice)
    assert culled.kind is OrderKind.CULL


def test_one_twin_at_a_time_the_longest_waiting_first(t: SimpleNamespace) -> None:
    late = seed(Stage.TRAINING, "blocks.0/0", entered_epoch=9)
    early = seed(Stage.TRAINING, "blocks.1/0", entered_epoch=7)
    (order,) = orders(t, late, early)
    assert order.seed == "blocks.1/0"
    assert orders(t, late, seed(Stage.GRAFTING, "blocks.2/0", ready=False)) == []


def test_without_a_judge_there_is_no_twin_to_wait_for(t: SimpleNamespace) -> None:
    off = {"judge": {"mode": "Off"}}
    assert len(orders(t, seed(Stage.TRAINING), seed(Stage.TRAINING, "blocks.1/0"), spec=off)) == 2


def test_a_kernel_without_parameters_holds_the_twin_from_its_germination(t: SimpleNamespace) -> None:
    fixed = t.kernel(parameters=0)
    controller = TamiyoController(t.spec(controller={"policy": "Always"}, seeds={"max_active": 2}))
    (order,) = controller.decide(t.view(kernels=[fixed]))
    assert order.kind is OrderKind.GERMINATE
    loading = SeedView("blocks.0/0", "blocks.0", Stage.LOADING, artifact_id=fixed.artifact_id)
    waiting = seed(Stage.TRAINING, "blocks.1/0")
    assert controller.decide(t.view(seeds=[loading, waiting], kernels=[])) == []
    assert any("one twin" in reason for reason in controller.log.last.refused)  # type: ignore[union-attr]


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
def test_after_a_loss_spike_seeds_without_effect_are_cancelled(t: SimpleNamespace, stage: Stage) -> None:
    (order,) = orders(t, seed(stage), loss_spike_epoch=19)
    assert (order.kind, order.target) == (OrderKind.CANCEL, Stage.CANCELLED)


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.GRAFTING, Stage.STABILIZATION, Stage.FINE_TUNING])
def test_after_a_loss_spike_seeds_that_touch_the_host_go_on(t: SimpleNamespace, stage: Stage) -> None:
    assert all(order.kind is OrderKind.ADVANCE for order in orders(t, seed(stage), loss_spike_epoch=19))
