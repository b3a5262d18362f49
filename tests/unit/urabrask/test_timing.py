"""The estimator on synthetic times: right where the truth is known, honest where it can't tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from esper.urabrask.timing import P99_CALLS, bootstrap_median, compare, measure, summarise


class Machine:
    """Two kernels on a clock of their own: times drawn around known means, disturbed by drift and by bursts."""

    def __init__(self, ratio: float, noise: float, seed: int, drift: float = 0.0, bursts: float = 0.0) -> None:
        self.now = 0.0
        self.ratio, self.noise, self.drift, self.bursts = ratio, noise, drift, bursts
        self.random = np.random.default_rng(seed)

    def clock(self) -> float:
        return self.now

    def call(self, mean: float) -> Callable[[], None]:
        def work() -> None:
            slow = 1.0 + self.drift * self.now
            if self.random.random() < self.bursts:
                slow *= 5.0
            self.now += mean * slow * float(np.exp(self.noise * self.random.standard_normal()))

        return work

    def compare(self, seconds: float = 20.0):
        return compare(self.call(0.003 * self.ratio), self.call(0.003), seconds, clock=self.clock)


@pytest.mark.parametrize("ratio", [0.5, 0.95, 1.0, 1.4])
def test_the_interval_covers_the_truth_as_often_as_it_says(ratio: float) -> None:
    covered = settled = 0
    for seed in range(60):
        found, _ = Machine(ratio, 0.05, seed).compare()
        covered += found.low <= ratio <= found.high
        settled += found.settled
        assert abs(found.ratio / ratio - 1) < 0.06
    # 95 % nominal; stopping when it looks narrow costs some of it. Fewer than 49 of 60 would mean less than about 90 %.
    assert covered >= 49
    assert settled == 60


def test_drift_and_bursts_hit_both_sides() -> None:
    for seed in range(20):
        found, _ = Machine(0.8, 0.03, seed, drift=0.2, bursts=0.05).compare()
        assert abs(found.ratio / 0.8 - 1) < 0.06


def test_quiet_machines_settle_soon_and_restless_ones_never() -> None:
    quiet, _ = Machine(0.9, 0.001, 0).compare()
    assert quiet.settled
    assert quiet.pairs <= 30
    assert (quiet.high - quiet.low) / 2 <= 0.02 * quiet.ratio
    restless, _ = Machine(0.9, 1.5, 0).compare(seconds=2.0)
    assert not restless.settled
    assert (restless.high - restless.low) / 2 > 0.02 * restless.ratio


def test_time_is_bounded() -> None:
    machine = Machine(1.0, 0.3, 1)
    machine.compare(seconds=3.0)
    assert machine.now < 3.0 + 2.0  # the comparison, one round over, and the single calls


def test_a_tail_needs_enough_calls() -> None:
    assert summarise([0.001] * (P99_CALLS - 1)).p99_ms is None
    times = [0.001] * (P99_CALLS - 20) + [0.010] * 20
    latency = summarise(times)
    assert latency.p99_ms == pytest.approx(10.0)
    assert latency.mean_ms == pytest.approx(1e3 * sum(times) / P99_CALLS)
    assert latency.calls == P99_CALLS


def test_single_calls_are_timed_at_least_five_times() -> None:
    machine = Machine(1.0, 0.0, 0)
    latency = measure(machine.call(10.0), 0.1, clock=machine.clock)
    assert latency.calls == 5
    assert latency.mean_ms == pytest.approx(10_000.0)


def test_the_bootstrap_interval_holds_the_median() -> None:
    values = np.random.default_rng(0).normal(size=101).tolist()
    low, high = bootstrap_median(values, np.random.default_rng(1))
    assert low < float(np.median(values)) < high
    assert bootstrap_median([2.0] * 30, np.random.default_rng(1)) == (2.0, 2.0)
