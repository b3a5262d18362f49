"""How long a kernel takes, on a machine that other work disturbs.

Two kernels are timed in the order A B B A: a disturbance that lasts or drifts meets both. Each A is set against the B
beside it, and the median of those ratios is the estimate; its interval comes from the percentile bootstrap (Efron
1979). Timing ends when the interval is narrow enough or the time is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["P99_CALLS", "Latency", "Ratio", "bootstrap_median", "compare", "measure"]

#: Fewest calls from which a 99th percentile is reported; then the slowest call but one bounds it with 99 % confidence
#: (the probability that fewer than two of n calls exceed it, 0.99^n + n·0.01·0.99^(n-1), is below 0.01 from n = 662).
P99_CALLS = 662
_RESAMPLES = 400
_LEVEL = 0.95


@dataclass(frozen=True)
class Latency:
    """Times of single calls in milliseconds."""

    mean_ms: float
    p99_ms: float | None
    calls: int


@dataclass(frozen=True)
class Ratio:
    """Time of A over time of B: median of pair ratios, its 95 % interval, and whether that is narrow enough."""

    ratio: float
    low: float
    high: float
    pairs: int
    settled: bool


def measure(call: Callable[[], object], seconds: float, *, clock: Callable[[], float] = time.perf_counter) -> Latency:
    """Time single calls until ``seconds`` are over or a 99th percentile can be told, but at least five."""
    times: list[float] = []
    end = clock() + seconds
    while len(times) < 5 or (len(times) < P99_CALLS and clock() < end):
        begin = clock()
        call()
        times.append(clock() - begin)
    return summarise(times)


def summarise(times: Sequence[float]) -> Latency:
    """Turn times in seconds into a :class:`Latency`."""
    p99 = float(np.percentile(times, 99)) * 1e3 if len(times) >= P99_CALLS else None
    return Latency(float(np.mean(times)) * 1e3, p99, len(times))


def compare(
    a: Callable[[], object],
    b: Callable[[], object],
    seconds: float,
    *,
    precision: float = 0.02,
    block_seconds: float = 0.002,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Ratio, Latency]:
    """Time ``a`` against ``b``, interleaved; returns the ratio and the times of single calls of ``a``.

    Args:
        a: the kernel in question.
        b: what it is measured against.
        seconds: when to give up.
        precision: half the interval's width over the median at which to stop.
        block_seconds: calls are timed in blocks of about this length; shorter ones drown in the clock's noise.
        clock: seconds, monotonic.
    """
    repeat = max(1, math.ceil(block_seconds / max(_once(b, clock), 1e-7)))
    ratios: list[float] = []
    end = clock() + seconds
    generator = np.random.default_rng(0)
    found = Ratio(math.nan, 0.0, math.inf, 0, False)
    while clock() < end and not found.settled:
        for _ in range(5):
            first, second, third, fourth = (_block(call, repeat, clock) for call in (a, b, b, a))
            ratios += [first / second, fourth / third]
        low, high = bootstrap_median(ratios, generator)
        median = float(np.median(ratios))
        settled = len(ratios) >= 20 and (high - low) / 2 <= precision * median
        found = Ratio(median, low, high, len(ratios), settled)
    # The tail needs single calls: in a block it would be averaged away.
    return found, measure(a, min(seconds, 1.0), clock=clock)


def bootstrap_median(values: Sequence[float], generator: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the median."""
    sample = np.asarray(values)
    picks = generator.integers(0, len(sample), (_RESAMPLES, len(sample)))
    medians = np.median(sample[picks], axis=1)
    tail = (1 - _LEVEL) / 2 * 100
    return float(np.percentile(medians, tail)), float(np.percentile(medians, 100 - tail))


def _once(call: Callable[[], object], clock: Callable[[], float]) -> float:
    spans = []
    for _ in range(3):
        begin = clock()
        call()
        spans.append(clock() - begin)
    return min(spans)


def _block(call: Callable[[], object], repeat: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(repeat):
        call()
    return clock() - begin
