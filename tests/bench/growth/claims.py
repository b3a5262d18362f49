"""What growth is claimed to do, each claim with the figures that decide whether it holds here."""

from __future__ import annotations

from dataclasses import dataclass

from .analysis import Results
from .figures import Estimate
from .suites import FIXED

MARGIN = 0.01
"""A point of accuracy: what counts as a difference that matters."""


@dataclass(frozen=True)
class Claim:
    """``holds`` is what the intervals allow to say; None if the runs it needs are missing."""

    text: str
    holds: bool | None
    figures: str


def signed(value: Estimate) -> str:
    """A difference in points, with half its interval."""
    return f"{100 * value.mean:+.2f} ± {100 * value.half:.2f}"


def claims(results: Results, arm: str = "heuristic") -> list[Claim]:
    """The claims about one growth arm, in the order of their weight."""
    if not results.complete(arm):
        return [Claim(f"the arm {arm} has no runs at some budgets", None, "")]
    return [
        *_regret(results, arm),
        *_against(results, arm, "final", "the final architecture from scratch, at equal compute"),
        *_against(results, arm, "never", "the host never grown, at equal compute"),
        *_placement(results, arm),
        *_compute(results, arm),
    ]


def _regret(results: Results, arm: str) -> list[Claim]:
    own = results.regret(arm)
    fixed = {name: results.regret(name) for name in FIXED if results.complete(name)}
    best = min(fixed, key=lambda name: fixed[name].mean)
    return [
        Claim(
            "the largest anytime regret is at most one point",
            own.high <= MARGIN,
            f"{100 * own.mean:.2f} points, interval {100 * own.low:.2f} to {100 * own.high:.2f}",
        ),
        Claim(
            "the anytime regret is below that of every fixed size",
            own.high < fixed[best].mean,
            f"{100 * own.mean:.2f} points against {100 * fixed[best].mean:.2f} for the best fixed size ({best})",
        ),
    ]


def _against(results: Results, arm: str, other: str, words: str) -> list[Claim]:
    if not results.complete(other):
        return [Claim(f"not worse than {words}", None, "")]
    found = {budget: results.versus(arm, other, budget) for budget in results.budgets}
    figures = "; ".join(f"{budget:.2g}: {signed(value)}" for budget, value in found.items())
    return [
        Claim(f"not worse than {words}, at any budget", all(v.low > -MARGIN for v in found.values()), figures),
        Claim(f"better than {words}, at the longest budget", found[results.budgets[-1]].low > 0, figures),
    ]


def _placement(results: Results, arm: str) -> list[Claim]:
    if not results.complete("random-slot"):
        return [Claim("the placement signal beats a random slot", None, "")]
    budget = results.budgets[-1]
    found = results.versus(arm, "random-slot", budget)
    return [
        Claim("the placement signal beats a random slot at the longest budget", found.low > 0, signed(found)),
    ]


def _compute(results: Results, arm: str) -> list[Claim]:
    longest = results.budgets[-1]
    best = results.curve(results.best_fixed(longest), longest)
    first = results.curve(results.best_fixed(results.budgets[0]), results.budgets[0])
    low, high = sum(first.values()) / len(first), sum(best.values()) / len(best)
    target = low + 0.9 * (high - low)
    own, sweep = results.compute_to(arm, target), results.sweep_to(target)
    if sweep is None:
        return []
    if own is None:
        return [Claim("half the compute of a sweep over sizes, or less", False, f"never reached {target:.4f}")]
    return [
        Claim(
            "half the compute of a sweep over sizes, or less",
            own <= 0.5 * sweep,
            f"{own:.2e} FLOPs to {target:.4f} against {sweep:.2e} for the sweep ({own / sweep:.2f})",
        )
    ]
