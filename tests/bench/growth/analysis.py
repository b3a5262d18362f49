"""From rows to answers. Nothing here runs anything; every figure is on the report split, paired by seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from .arms import TUNING_SEED
from .figures import Estimate, estimate, paired, worst, worst_difference
from .store import Row
from .suites import FIXED, Suite

Curve = dict[int, float]
"""A value by seed."""


def tuned_rates(rows: Sequence[Row], fallback: float) -> Rates:
    """The learning rate with the lowest mean controller loss, by arm and budget, from the tuning runs alone.

    ``fallback`` is used for an arm without tuning runs. A run whose loss is not finite counts as infinitely bad.
    """
    losses: dict[tuple[str, float], dict[float, list[float]]] = {}
    for row in rows:
        if row["seed"] >= TUNING_SEED:
            loss = row["controller_loss"]
            value = math.inf if loss is None or not math.isfinite(loss) else loss
            losses.setdefault((row["arm"], row["budget"]), {}).setdefault(row["rate"], []).append(value)
    best = {key: min(by_rate, key=lambda rate: mean(by_rate[rate])) for key, by_rate in losses.items()}
    return Rates(best, fallback)


class Rates(dict[tuple[str, float], float]):
    """Learning rates by arm and budget; a budget that was not tuned takes the rate of the nearest that was."""

    def __init__(self, known: dict[tuple[str, float], float], fallback: float) -> None:
        super().__init__(known)
        self._fallback = fallback

    def __missing__(self, key: tuple[str, float]) -> float:
        arm, budget = key
        tuned = [size for name, size in self if name == arm]
        if not tuned:
            return self._fallback
        return self[arm, min(tuned, key=lambda size: abs(math.log(size / budget)))]


@dataclass(frozen=True)
class Results:
    """The report runs of one suite."""

    suite: Suite
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, suite: Suite, rows: Sequence[Row]) -> Results:
        """Keep the suite's report runs (not those for tuning)."""
        return cls(suite, tuple(row for row in rows if row["task"] == suite.name and row["seed"] < TUNING_SEED))

    @property
    def sign(self) -> float:
        """+1 if more of the metric is better, −1 if less is."""
        return 1.0 if self.suite.higher_is_better else -1.0

    @property
    def budgets(self) -> list[float]:
        """Budgets that have runs, shortest first."""
        return sorted({row["budget"] for row in self.rows})

    def arms(self) -> list[str]:
        """Arms that have runs."""
        return sorted({row["arm"] for row in self.rows})

    def curve(self, arm: str, budget: float, what: str = "metric") -> Curve:
        """A figure by seed."""
        return {row["seed"]: row[what] for row in self.rows if row["arm"] == arm and row["budget"] == budget}

    def best_fixed(self, budget: float) -> str:
        """The fixed size with the best mean metric at a budget.

        Chosen on the report split itself, which favours the fixed sizes: growth is compared with more than anyone
        could have known.
        """
        known = [arm for arm in FIXED if self.curve(arm, budget)]
        return max(known, key=lambda arm: self.sign * mean(self.curve(arm, budget).values()))

    def shortfall(self, arm: str, budget: float) -> Curve:
        """How much worse than the best fixed size of that budget, by seed; negative is better."""
        best, own = self.curve(self.best_fixed(budget), budget), self.curve(arm, budget)
        return {seed: self.sign * (best[seed] - own[seed]) for seed in best.keys() & own.keys()}

    def regret(self, arm: str) -> Estimate:
        """Anytime regret: the largest mean shortfall over the budgets."""
        return worst([self.shortfall(arm, budget) for budget in self.budgets])

    def regret_margin(self, arm: str, other: str) -> Estimate:
        """How much larger the anytime regret of ``arm`` is than that of ``other``."""
        mine, others = ([self.shortfall(name, budget) for budget in self.budgets] for name in (arm, other))
        return worst_difference(mine, others)

    def versus(self, arm: str, other: str, budget: float) -> Estimate:
        """Paired difference of the metric, positive when ``arm`` is better."""
        difference = paired(self.curve(arm, budget), self.curve(other, budget))
        if self.sign > 0:
            return difference
        return Estimate(-difference.mean, -difference.high, -difference.low, difference.n)

    def complete(self, arm: str) -> bool:
        """Whether the arm has runs at every budget."""
        return bool(self.budgets) and all(self.curve(arm, budget) for budget in self.budgets)

    def compute_to(self, arm: str, target: float) -> float | None:
        """Training FLOPs at which the arm's mean metric reaches ``target``, log-linear between budgets; None if never.

        A target that the shortest budget reaches already gives that budget: less was not measured.
        """
        points = [
            (math.log(b), self.sign * mean(self.curve(arm, b).values())) for b in self.budgets if self.curve(arm, b)
        ]
        goal = self.sign * target
        if points and points[0][1] >= goal:
            return next(budget for budget in self.budgets if self.curve(arm, budget))
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 < goal <= y1:
                return math.exp(x0 + (x1 - x0) * (goal - y0) / (y1 - y0))
        return None

    def single_to(self, target: float) -> tuple[str, float] | None:
        """The fixed size that reaches the target with the fewest FLOPs, which nobody knows beforehand, and those."""
        reached = {arm: cost for arm in FIXED if (cost := self.compute_to(arm, target)) is not None}
        return min(reached.items(), key=lambda item: item[1]) if reached else None

    def sweep_to(self, target: float) -> float | None:
        """FLOPs of a sweep: all fixed sizes train side by side until the first of them reaches the target."""
        single = self.single_to(target)
        return None if single is None else single[1] * sum(bool(self.curve(arm, self.budgets[0])) for arm in FIXED)

    def levels(self) -> list[float]:
        """Levels of the metric between the best fixed sizes of the shortest and of the longest budget."""
        low, high = (
            mean(self.curve(self.best_fixed(budget), budget).values()) for budget in (self.budgets[0], self.budgets[-1])
        )
        return [low + share * (high - low) for share in (0.25, 0.5, 0.75, 0.9)]

    def slots(self, arm: str, budget: float) -> Counter[str]:
        """How often the first seed of a run went where; "none" for runs without one."""
        return Counter(
            row["grown"][0]["slot"] if row["grown"] else "none"
            for row in self.rows
            if row["arm"] == arm and row["budget"] == budget
        )

    def same_first_slot(self, arm: str, other: str, budget: float) -> tuple[int, int]:
        """In how many pairs of runs the first seed went to the same slot, and how many pairs there are."""
        first, second = (
            {
                row["seed"]: row["grown"][0]["slot"] if row["grown"] else None
                for row in self.rows
                if row["arm"] == name and row["budget"] == budget
            }
            for name in (arm, other)
        )
        pairs = first.keys() & second.keys()
        return sum(first[seed] == second[seed] for seed in pairs), len(pairs)

    def kept(self, arm: str, budget: float) -> tuple[int, int]:
        """Seeds kept and seeds germinated, over all runs."""
        seeds = [seed for row in self.rows if row["arm"] == arm and row["budget"] == budget for seed in row["grown"]]
        return sum(seed["stage"] == "FOSSILIZED" for seed in seeds), len(seeds)

    def overhead(self, arm: str, budget: float) -> Estimate:
        """Share of the FLOPs that went into twins, probes and culled seeds."""
        rows = [row for row in self.rows if row["arm"] == arm and row["budget"] == budget]
        return estimate(
            [(row["flops_twins"] + row["flops_culled"] + row["flops_probes"]) / row["flops"] for row in rows]
        )
