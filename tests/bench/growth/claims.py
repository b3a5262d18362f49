"""What growth is claimed to do, each claim with the figures that decide whether it holds here."""

from __future__ import annotations

from dataclasses import dataclass

from .analysis import Results
from .figures import Estimate
from .suites import FIXED

SWEEP_SHARE = 0.7
"""Compute to a level, as a share of what a sweep over the fixed sizes takes."""


@dataclass(frozen=True)
class Claim:
    """``holds`` is what the figures allow to say; None if the runs it needs are missing."""

    text: str
    holds: bool | None
    figures: str


def signed(value: Estimate) -> str:
    """A difference in hundredths of the metric, with half its interval."""
    return f"{100 * value.mean:+.2f} ± {100 * value.half:.2f}"


def claims(results: Results, arm: str = "heuristic") -> list[Claim]:
    """The claims about one growth arm, in the order of their weight."""
    if not results.complete(arm):
        return [Claim(f"the arm {arm} has no runs at some budgets", None, "")]
    return [
        _regret(results, arm),
        _not_worse_than_both(results, arm),
        _compute(results, arm),
        _placement(results, arm),
        *_longest(results, arm),
    ]


def _regret(results: Results, arm: str) -> Claim:
    text = "the anytime regret is smaller than that of every fixed size"
    fixed = [name for name in FIXED if results.complete(name)]
    if len(fixed) < len(FIXED):
        return Claim(text, None, "")
    own = results.regret(arm)
    margins = {name: results.regret_margin(name, arm) for name in fixed}
    best = min(margins, key=lambda name: margins[name].mean)
    figures = (
        f"{100 * own.mean:.2f} ({100 * own.low:.2f} to {100 * own.high:.2f}) against "
        f"{100 * results.regret(best).mean:.2f} for the best fixed size (`{best}`); difference "
        f"{100 * margins[best].low:.2f} to {100 * margins[best].high:.2f}"
    )
    return Claim(text, all(margin.low > 0 for margin in margins.values()), figures)


def _not_worse_than_both(results: Results, arm: str) -> Claim:
    text = "never worse than both the host never grown and the final architecture from scratch, at any budget"
    if not (results.complete("never") and results.complete("final")):
        return Claim(text, None, "")
    holds, figures = True, []
    for budget in results.budgets:
        never, final = (results.versus(arm, other, budget) for other in ("never", "final"))
        holds &= never.high >= 0 or final.high >= 0
        figures.append(f"{budget:.2g}: {signed(never)} to `never`, {signed(final)} to `final`")
    return Claim(text, holds, "; ".join(figures))


def _compute(results: Results, arm: str) -> Claim:
    text = f"a level is reached with at most {SWEEP_SHARE:g} of the compute of a sweep over the tuned fixed sizes"
    found = []
    for level in results.levels():
        own, sweep, single = results.compute_to(arm, level), results.sweep_to(level), results.single_to(level)
        if sweep is None or single is None:
            continue
        if own is None:
            return Claim(text, False, f"{level:.4f} was never reached")
        found.append((level, own / sweep, own / single[1], single[0]))
    if not found:
        return Claim(text, None, "")
    figures = "; ".join(
        f"{level:.4f}: {share:.2f} of the sweep, {alone:.2f} of the best size alone (`{name}`)"
        for level, share, alone, name in found
    )
    return Claim(text, all(share <= SWEEP_SHARE for _, share, _, _ in found), figures)


def _placement(results: Results, arm: str) -> Claim:
    text = "its placement is better than a random slot, at the longest budget"
    budget = results.budgets[-1]
    if len(results.curve("random-slot", budget)) < 2:
        return Claim(text, None, "")
    if results.kept(arm, budget)[1] == 0:
        return Claim(text, None, "no seed germinated")
    found = results.versus(arm, "random-slot", budget)
    alike, drawn = results.same_first_slot(arm, "random-slot", budget)
    return Claim(text, found.low > 0, f"{signed(found)}; the draw hit the same slot in {alike} of {drawn} runs")


def _longest(results: Results, arm: str) -> list[Claim]:
    budget = results.budgets[-1]
    others = {"never": "the host never grown", "final": "the final architecture from scratch"}
    found = []
    for other, words in others.items():
        text = f"better than {words}, at the longest budget"
        if results.curve(other, budget):
            difference = results.versus(arm, other, budget)
            found.append(Claim(text, difference.low > 0, signed(difference)))
        else:
            found.append(Claim(text, None, ""))
    return found
