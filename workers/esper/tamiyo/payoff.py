"""Is a trial worth its price?

With S0 steps done, the run makes S more without the seed, S' with it, and S'' if the seed is tried and culled, because
the same budget must also pay for the twin, the judge and dearer steps. The host's loss falls as a power b of the steps,
so a seed that is kept costs b·ln((S0+S)/(S0+S')) of log loss and one that is culled b·ln((S0+S)/(S0+S'')). What the
kernel brings is counted in compute: with r = kernel FLOPs over network FLOPs it is worth κ·b·ln(1+r), of which s steps
of training together have brought 1 − exp(−s/τ).

κ is not known but believed to be normal with some mean and spread (``evidence``). The judge keeps the seed if what it
measures by then is over its threshold; so the better κ, the likelier it is kept, and a trial is an option: the gain
counts where it is kept, and where it is not only the price of the trial is lost.

    E[κ; kept]·b·(1 − exp(−s/τ))·ln(1+r) − P(kept)·(cost if kept) − (1 − P(kept))·(cost if culled)

Both terms are closed expressions of the normal distribution. The factor b is on both sides, so the answer hangs on κ, τ
and the steps.

Parameters are the wrong measure of size: on the small convolutional network the same 384 parameters bring four points
of accuracy after the first block and none after the last, for 2.0 and 0.5 times the host's FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from esper.tamiyo.cost import LOADING_EPOCHS, CostModel, GrowthCost
from esper.tamiyo.evidence import EARLY_ERROR, Belief

if TYPE_CHECKING:
    from esper.tamiyo.views import RunView
    from leyline.resources import JudgeSpec

#: Optimizer steps in which a new kernel brings 1 − 1/e of its worth. It is in steps: grown at 5 % of the run, a network
#: passed the host alone from about 400 grown steps on, whatever the length of the run. Final losses of kernels in the
#: first two slots of two convolutional networks, after 330 to 2,100 steps, fit 1,000 steps and κ = 2.7.
TIME_CONSTANT = 1000.0
#: With fewer steps than these left for the grown network, a kernel brought nothing that could be measured (87 and 175
#: steps), whatever an exponential that fits the longer ones says.
FEWEST_STEPS = 250
#: Least exponent of loss over steps that is reckoned with: a host that is flat for want of capacity has an exponent of
#: zero of its own. It is also the exponent assumed before the losses show one.
LEAST_EXPONENT = 0.1
#: How fast the loss goes on falling, per unit of log time, over how fast it fell so far.
LATER_SHARE = 0.5
#: What compute is worth that no budget limits, as a share of what it is worth where one does: the same, so that a run
#: grows where size is the better use of compute and not because compute is free.
COMPUTE_PRICE = 1.0
#: Deviation of a classifier's paired loss differences over the loss, one example each: the judge's standard error is
#: this over the root of the examples. Verdicts replace it by what they measured.
EXAMPLE_SPREAD = 0.7
#: Examples assumed where the view does not tell.
EXAMPLES = 1000

_NORMAL = NormalDist()


def exponent_of(losses: Sequence[float]) -> float:
    """The exponent of loss over steps that is reckoned with: from the whole fall so far, so that noise moves it little;
    never below ``LEAST_EXPONENT``."""
    now = median(losses[-3:]) if len(losses) > 3 else losses[-1] if len(losses) > 1 else math.nan
    if not 0.0 < now < losses[0] < math.inf:
        return LEAST_EXPONENT
    return max(LEAST_EXPONENT, LATER_SHARE * math.log(losses[0] / now) / math.log(len(losses)))


@dataclass(frozen=True, slots=True)
class Sight:
    """How fine the judge sees: ``error`` is its standard error and ``threshold`` the least effect it keeps, both over
    the loss. ``None`` for a threshold means that nothing is judged and all is kept."""

    error: float
    threshold: float | None

    @classmethod
    def of(cls, judge: JudgeSpec, view: RunView, resolution: float | None) -> Sight:
        """From the manifest and the last verdict's error, or the number of controller examples before the first."""
        error = resolution if resolution is not None else EXAMPLE_SPREAD / math.sqrt(_examples(view))
        if judge.mode == "Off":
            return cls(error, None)
        level = next((loss for loss in reversed(view.controller_losses) if 0.0 < loss < math.inf), math.inf)
        return cls(error, judge.minimum_effect / level + _NORMAL.inv_cdf(1.0 - judge.p_value) * error)


def _examples(view: RunView) -> float:
    """Controller examples: the values of which a slot's statistics were taken, over its positions."""
    for slot in view.slots.values():
        count = slot.statistics.get("count", 0.0)
        if count > 0.0:
            return max(2.0, count / max(1, math.prod(slot.interface.trailing) * slot.calls))
    return float(EXAMPLES)


@dataclass(frozen=True, slots=True)
class Payoff:
    """What speaks for a trial, in log loss at the end of the run.

    ``advantage`` is ``gain`` (what the kernel brings, counted as far as it is kept) minus ``price`` (what is expected
    to be paid, kept or not); ``kept`` is the probability that it is, ``if_kept`` and ``if_culled`` what it costs then;
    ``grown_steps`` are the steps it trains with the host, ``settled`` the share of its worth they bring.
    """

    advantage: float
    gain: float
    price: float
    kept: float
    if_kept: float
    if_culled: float
    grown_steps: float
    settled: float

    def numbers(self) -> dict[str, float]:
        """The figures that go with a decision."""
        return {
            "advantage": self.advantage,
            "kernel_gain": self.gain,
            "trial_price": self.price,
            "chance_kept": self.kept,
            "price_if_kept": self.if_kept,
            "price_if_culled": self.if_culled,
            "grown_steps": self.grown_steps,
            "settled": self.settled,
        }


def settled(steps: float) -> float:
    """The share of a kernel's worth that is there after so many steps with the host."""
    return -math.expm1(-max(0.0, steps) / TIME_CONSTANT)


def weigh(view: RunView, costs: CostModel, cost: GrowthCost, exponent: float, belief: Belief, sight: Sight) -> Payoff:
    """Compare the run with and without the trial that ``cost`` is the bill of; ``belief`` is about this kernel here."""
    alone = (LOADING_EPOCHS + costs.calendar.isolation) * costs.steps_per_epoch(view)
    grown = max(0.0, cost.steps_with - alone)
    share = settled(grown) if grown >= FEWEST_STEPS else 0.0
    size = math.log1p(cost.step_ratio)
    kept, hoped = _trial(belief, exponent * settled(cost.steps_to_verdict) * size, sight)
    gain = exponent * share * size * hoped
    if_kept = exponent * _lost(view, cost, cost.steps_with, cost.spent_with)
    if_culled = exponent * _lost(view, cost, cost.steps_culled, cost.spent_culled)
    price = kept * if_kept + (1.0 - kept) * if_culled
    return Payoff(gain - price, gain, price, kept, if_kept, if_culled, grown, share)


def _trial(belief: Belief, by_verdict: float, sight: Sight) -> tuple[float, float]:
    """The probability that the seed is kept, and κ times that it is, expected together.

    ``by_verdict`` is the log loss that κ = 1 brings until the judge looks; what is measured there scatters around κ by
    the judge's error and because it is early.
    """
    if sight.threshold is None:
        return 1.0, belief.mean
    if by_verdict <= 0.0:
        return 0.0, 0.0
    scatter = math.hypot(belief.spread, EARLY_ERROR, sight.error / by_verdict)
    z = (belief.mean - sight.threshold / by_verdict) / scatter
    kept = _NORMAL.cdf(z)
    return kept, belief.mean * kept + belief.spread**2 / scatter * _NORMAL.pdf(z)


def _lost(view: RunView, cost: GrowthCost, steps: float, spent: float) -> float:
    """What it costs, per unit of the exponent: steps that a limit takes away, and compute that none limits."""
    done, before = max(1.0, float(view.step)), max(1.0, view.budget.flops_used)
    steps_lost = math.log((done + cost.steps_without) / (done + steps))
    more = (before + spent) / (before + cost.spent_without)
    return steps_lost + COMPUTE_PRICE * max(0.0, math.log(more))
