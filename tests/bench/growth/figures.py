"""Small statistics: intervals over seeds, paired by seed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; ``n`` seeds. With one seed there is no interval (NaN)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's 95 % interval. Raises ``ValueError`` without values."""
    if not values:
        raise ValueError("no values to estimate from")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * spread
    return Estimate(mean, mean - half, mean + half, n)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate:
    """``first`` minus ``second`` over the seeds that both have. Raises ``ValueError`` if there is none."""
    seeds = sorted(first.keys() & second.keys())
    return estimate([first[seed] - second[seed] for seed in seeds])


def worst(by_budget: Sequence[Mapping[int, float]]) -> Estimate:
    """The largest mean over budgets of values by seed, with a bootstrap interval over seeds (2,000 draws, fixed seed).

    The same seeds are drawn for every budget, as the runs of one seed belong together.
    """
    return worst_difference(by_budget, [dict.fromkeys(values, 0.0) for values in by_budget])


def worst_difference(first: Sequence[Mapping[int, float]], second: Sequence[Mapping[int, float]]) -> Estimate:
    """The largest mean over budgets of ``first`` minus that of ``second``, each by budget and seed, with an interval
    as for ``worst``. Raises ``ValueError`` if no seed has every run."""
    seeds = sorted(set.intersection(*(set(values) for values in [*first, *second])))
    if not seeds:
        raise ValueError("no seed has a run at every budget")

    def largest(values: Sequence[Mapping[int, float]], drawn: Sequence[int]) -> float:
        return max(math.fsum(one[seed] for seed in drawn) / len(drawn) for one in values)

    def difference(drawn: Sequence[int]) -> float:
        return largest(first, drawn) - largest(second, drawn)

    if len(seeds) < 2:
        return Estimate(difference(seeds), math.nan, math.nan, len(seeds))
    generator = random.Random(0)
    draws = sorted(difference(generator.choices(seeds, k=len(seeds))) for _ in range(DRAWS))
    return Estimate(difference(seeds), draws[int(0.025 * DRAWS)], draws[int(0.975 * DRAWS) - 1], len(seeds))
