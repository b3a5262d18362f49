"""Intervals for what is measured here: proportions, medians, means, and ratios of pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A value with its two-sided 95 % interval and the number of observations."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927): sound near 0 and 1, where the usual one is not.

    Raises:
        ValueError: ``n`` is below 1, or ``successes`` is not from 0 to ``n``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return Estimate(share, low, 1.0 if successes == n else min(1.0, middle + half), n)


def single(value: float) -> Estimate:
    """What was observed once: an interval without width."""
    return Estimate(value, value, value, 1)


def median(values: Sequence[float]) -> Estimate:
    """The median, with the narrowest interval between two order statistics that covers it at 95 % or more.

    Below six observations no two of them do, and the interval is the range.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        raise ValueError("no observations")
    # the number of observations below the median is binomial(n, 1/2)
    rank = int(stats.binom.ppf(0.025, n, 0.5)) if n >= 6 else 0
    while rank > 0 and 1.0 - 2.0 * float(stats.binom.cdf(rank - 1, n, 0.5)) < 0.95:
        rank -= 1
    rank = max(rank, 1)
    return Estimate(statistics.median(ordered), ordered[rank - 1], ordered[n - rank], n)


def mean(values: Sequence[float]) -> Estimate:
    """The mean with Student's interval; infinite for a single observation."""
    n = len(values)
    if n == 0:
        raise ValueError("no observations")
    middle = statistics.fmean(values)
    if n == 1:
        return Estimate(middle, -math.inf, math.inf, 1)
    half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n)


def paired_ratio(measured: Sequence[float], reference: Sequence[float]) -> Estimate:
    """The median of the pairs' ratios, so that drift of the machine, common to a pair, drops out.

    Raises:
        ValueError: the two differ in length, or a reference is not positive.
    """
    if len(measured) != len(reference) or any(r <= 0 for r in reference):
        raise ValueError("pairs must be complete and their references positive")
    return median([a / b for a, b in zip(measured, reference, strict=True)])


def bootstrap(
    values: Sequence[float], statistic: Callable[[np.ndarray], float], draws: int = 2000, seed: int = 0
) -> Estimate:
    """Any statistic with its percentile interval (Efron 1979) over ``draws`` resamples."""
    data = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    resampled = [statistic(data[generator.integers(0, len(data), len(data))]) for _ in range(draws)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(statistic(data), float(low), float(high), len(data))


def percentile(values: Sequence[float], share: float) -> float | None:
    """A percentile, or None where fewer than ten observations would lie beyond it."""
    if len(values) * (1.0 - share) < 10:
        return None
    return float(np.quantile(np.asarray(values, dtype=float), share))
