"""Does growing pay for the compute that remains?

Without the seed the run makes S more steps and follows its present trend. With it the run makes S' ≤ S steps, because
the same budget must also pay for the twin, the judge and dearer steps, and ends lower by what the larger network
brings: the loss falls as (1 + n/N)^−a. That gain comes in with time; after s steps of the seed 1 − exp(−s/τ) of it is
there.
τ is a sixth of the run: measured on the small convolutional network, blocks frozen after 200, 400 and 1,000 of 2,400
steps kept 39 %, 63 % and 91 % of their worth, which is this curve.
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


def weigh(
    view: RunView, trend: Trend, cost: GrowthCost, costs: CostModel, *, exponent: float, factor: float = 1.0
) -> Payoff:
    """Compare the run with and without the seed that ``cost`` is the bill of.

    ``exponent`` is that of loss over parameters, ``factor`` what is known of this kernel in this slot.
    """
    per_epoch = costs.steps_per_epoch(view)
    if per_epoch <= 0:
        return Payoff(trend.level, trend.level, 0.0, 0.0, 0.0)
    left_without, left_with = cost.steps_without / per_epoch, cost.steps_with / per_epoch
    alone = LOADING_EPOCHS + costs.calendar.isolation
    tau = TIME_CONSTANT * (view.epoch + left_without)
    settled = 1.0 - math.exp(-max(0.0, left_with - alone) / tau) if tau > 0 else 0.0
    growth = math.log1p(cost.parameters / max(1, view.budget.parameters_used))
    gain = (1.0 - math.exp(-exponent * factor * growth)) * settled
    scale = abs(trend.level) or 1.0
    without = trend.at(trend.now + left_without)
    with_seed = trend.at(trend.now + left_with)
    with_seed -= gain * abs(with_seed)
    return Payoff(
        without=without,
        with_seed=with_seed,
        advantage=(without - with_seed) / scale,
        gain=gain,
        next_epoch=(trend.level - trend.at(trend.now + 1.0)) / scale,
    )
