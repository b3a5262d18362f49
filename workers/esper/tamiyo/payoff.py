"""Does growing pay for the compute that remains?

With S0 steps done, the run makes S more without the seed and S' with it, because the same budget must also pay for the
twin, the judge and dearer steps. The host's loss falls as a power b of the steps, so growing costs
b·ln((S0+S)/(S0+S')) of log loss. What the kernel brings is counted in compute: with r = kernel FLOPs over network
FLOPs it is worth κ·b·ln(1+r), of which s steps of training together have brought 1 − exp(−s/τ). Both sides have the
factor b, so the answer hangs on κ, τ and the steps alone:

    grow if κ·(1 − exp(−s/τ))·ln(1+r) > ln((S0+S)/(S0+S')), and s is at least 250

Parameters are the wrong measure of size: on the small convolutional network the same 384 parameters bring four points
of accuracy after the first block and none after the last, for 2.0 and 0.5 times the host's FLOPs. Grown after the
first block at 5 % of the run, the network passed the host alone from 300 to 400 grown steps on, whatever the length of
the run: so τ is in steps, and κ = 2 and τ = 500 put break-even there. Fitted to final losses κ is 1 on a character
Transformer and about 2 on small networks for signals and for vectors; verdicts correct it (``evidence``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.tamiyo.cost import LOADING_EPOCHS, CostModel, GrowthCost

if TYPE_CHECKING:
    from esper.tamiyo.trend import Trend
    from esper.tamiyo.views import RunView

#: Optimizer steps in which a new kernel brings 1 − 1/e of its worth.
TIME_CONSTANT = 500.0
#: With fewer steps than these left for the grown network, a kernel brought nothing that could be measured (87 and 175
#: steps), whatever an exponential that fits the longer ones says.
FEWEST_STEPS = 250
#: Least exponent of loss over steps that a kernel's worth is reckoned with: a host that is flat for want of capacity
#: has an exponent of zero of its own. It is also the exponent assumed before the losses show one.
LEAST_EXPONENT = 0.1


@dataclass(frozen=True, slots=True)
class Exponents:
    """How fast the loss falls per unit of log steps: what lost steps cost, and what a kernel's worth is scaled by."""

    lost: float = LEAST_EXPONENT
    worth: float = LEAST_EXPONENT

    @classmethod
    def of(cls, trend: Trend | None) -> Exponents:
        """From the trend, at best for the host; the least exponent where there is none yet."""
        if trend is None:
            return cls()
        return cls(trend.exponent, max(LEAST_EXPONENT, trend.exponent))


@dataclass(frozen=True, slots=True)
class Payoff:
    """What speaks for growing, in log loss at the end of the run.

    ``advantage`` is ``gain`` (what the kernel brings) minus ``lost`` (what the steps bring that it costs);
    ``grown_steps`` are the steps it trains with the host, ``settled`` the share of its worth they bring.
    """

    advantage: float
    gain: float
    lost: float
    grown_steps: float
    settled: float

    def numbers(self) -> dict[str, float]:
        """The figures that go with a decision."""
        return {
            "advantage": self.advantage,
            "kernel_gain": self.gain,
            "lost_steps_cost": self.lost,
            "grown_steps": self.grown_steps,
            "settled": self.settled,
        }


def settled(steps: float) -> float:
    """The share of a kernel's worth that is there after so many steps with the host."""
    return -math.expm1(-max(0.0, steps) / TIME_CONSTANT)


def weigh(view: RunView, costs: CostModel, cost: GrowthCost, exponents: Exponents, leverage: float) -> Payoff:
    """Compare the run with and without the seed that ``cost`` is the bill of; ``leverage`` is κ for this kernel."""
    alone = (LOADING_EPOCHS + costs.calendar.isolation) * costs.steps_per_epoch(view)
    grown = max(0.0, cost.steps_with - alone)
    share = settled(grown) if grown >= FEWEST_STEPS else 0.0
    done = max(1.0, float(view.step))
    gain = leverage * exponents.worth * share * math.log1p(cost.step_ratio)
    lost = exponents.lost * math.log((done + cost.steps_without) / (done + cost.steps_with))
    return Payoff(gain - lost, gain, lost, grown, share)
