"""Does growing pay for the compute that remains?

Without the seed the run makes S more steps and follows its present trend. With it the run makes S' ≤ S steps, because
the same budget must also pay for the twin, the judge and dearer steps, and ends lower by what the larger network
brings: the loss falls as (1 + n/N)^−a. That comes in with time; s steps after blending began 1 − exp(−s/τ) of it is
there. τ is a sixth of the run: measured on the small convolutional network, blocks frozen after 200, 400 and 1,000 of
2,400 steps kept 39 %, 63 % and 91 % of their worth, which is this curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.tamiyo.cost import LOADING_EPOCHS, CostModel, GrowthCost

if TYPE_CHECKING:
    from esper.tamiyo.trend import Trend
    from esper.tamiyo.views import RunView

TIME_CONSTANT = 1.0 / 6.0


@dataclass(frozen=True, slots=True)
class Payoff:
    """Expected losses at the end of the run, and what speaks for growing.

    ``advantage`` is (``without`` − ``with_seed``) relative to the present level; ``gain`` the relative fall expected of
    the kernel by then; ``next_epoch`` the relative fall expected of the host alone over the coming epoch.
    """

    without: float
    with_seed: float
    advantage: float
    gain: float
    next_epoch: float

    def numbers(self) -> dict[str, float]:
        """The figures that go with a decision."""
        return {
            "expected_loss_without": self.without,
            "expected_loss_with": self.with_seed,
            "advantage": self.advantage,
            "kernel_gain": self.gain,
            "host_gain_next_epoch": self.next_epoch,
        }


def capacity(view: RunView, costs: CostModel, cost: GrowthCost, exponent: float) -> float:
    """The fall of log loss that the larger network brings by the end of the run.

    ``exponent`` is that of loss over parameters, times what is known of this kernel in this slot.
    """
    per_epoch = costs.steps_per_epoch(view)
    if per_epoch <= 0.0:
        return 0.0
    tau = TIME_CONSTANT * (view.epoch + cost.steps_without / per_epoch)
    blended = cost.steps_with / per_epoch - LOADING_EPOCHS - costs.calendar.isolation
    settled = 1.0 - math.exp(-max(0.0, blended) / tau) if tau > 0.0 else 0.0
    return exponent * settled * math.log1p(cost.parameters / max(1, view.budget.parameters_used))


def lost_time(view: RunView, costs: CostModel, cost: GrowthCost) -> float:
    """How much log time growing costs: ln of the run's length without over that with the seed; 0 if epochs bind."""
    per_epoch = costs.steps_per_epoch(view)
    now = max(1.0, float(view.epoch))
    if per_epoch <= 0.0:
        return 0.0
    return math.log((now + cost.steps_without / per_epoch) / (now + cost.steps_with / per_epoch))


def weigh(view: RunView, trend: Trend, cost: GrowthCost, costs: CostModel, exponent: float) -> Payoff:
    """Compare the run with and without the seed that ``cost`` is the bill of; ``exponent`` as for ``capacity``."""
    per_epoch = costs.steps_per_epoch(view) or math.inf
    without = trend.at(trend.now + cost.steps_without / per_epoch)
    with_seed = trend.at(trend.now + cost.steps_with / per_epoch)
    gain = -math.expm1(-capacity(view, costs, cost, exponent))
    with_seed -= gain * abs(with_seed)
    scale = abs(trend.level) or 1.0
    return Payoff(
        without=without,
        with_seed=with_seed,
        advantage=(without - with_seed) / scale,
        gain=gain,
        next_epoch=(trend.level - trend.at(trend.now + 1.0)) / scale,
    )
