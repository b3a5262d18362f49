from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.schedule import KINDS, Progress, Schedule


@given(
    kind=st.sampled_from(KINDS), warmup=st.integers(0, 100), decay=st.floats(0.0, 0.99), progress=st.floats(0.0, 1.0),
    step=st.integers(0, 10_000),
)  # fmt: skip
def test_multiplier_stays_between_zero_and_one(kind, warmup, decay, progress, step):
    assert 0.0 <= Schedule(kind, warmup, decay).multiplier(progress, step) <= 1.0


def test_warmup_rises_linearly_to_the_full_rate():
    schedule = Schedule("Constant", 10, 0.0)
    assert [schedule.multiplier(0.0, step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]


def test_stable_then_linear_decay_to_zero():
    schedule = Schedule("WarmupStableDecay", 0, 0.25)
    assert schedule.multiplier(0.75, 5) == 1.0
    assert schedule.multiplier(0.875, 5) == 0.5
    assert schedule.multiplier(1.0, 5) == 0.0


def test_cosine_is_half_in_the_middle():
    assert Schedule("Cosine", 0, 0.0).multiplier(0.5, 0) == pytest.approx(0.5)


def test_progress_runs_from_start_to_stop_over_the_epochs_steps():
    progress = Progress(0.2, 0.4, 10)
    assert progress.at(0) == 0.2
    assert progress.at(5) == pytest.approx(0.3)
    assert progress.at(10) == pytest.approx(0.4)


def test_unknown_kind_is_named_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"'Step'.*Constant, WarmupStableDecay, Cosine"):
        Schedule("Step", 0, 0.0)
