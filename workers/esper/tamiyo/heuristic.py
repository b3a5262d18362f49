"""The heuristic: grow as early as it pays for the compute that remains, where a place is worth most.

Measured: of 5,300 steps' worth of compute, growth after 3, 8, 17, 33 and 58 % of it ended at 93.4, 93.0, 92.1, 91.9 and
91.5 % accuracy. So nothing waits for a plateau; what decides is whether enough steps remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esper.tamiyo.payoff import Payoff, weigh
from esper.tamiyo.placement import Place, Placement, Probing, candidates, place
from esper.tamiyo.policy import Choice, Draws, Options, Proposal, not_yet

if TYPE_CHECKING:
    from esper.tamiyo.views import Order, RunView
    from leyline.resources import TrainingRunSpec

#: Payoffs that differ by less than this share of the best one's kernel gain are equal; the earliest slot is taken.
TIE = 1.0 / 3.0

Weighed = tuple[Place, Payoff, dict[str, float]]


class Heuristic:
    """Asks in turn: is this the moment, is capacity what is short, does it pay, and where does it pay most?

    The questions that cost nothing come first; a probe is only run once growing would pay without its answer.
    """

    def __init__(self, spec: TrainingRunSpec) -> None:
        self._spec = spec
        self._draws = Draws(spec.seed)
        self._vain_probe: int | None = None

    def decide(self, view: RunView, options: Options) -> Choice:
        """At most one germination, with the expected payoff behind it; else what speaks against it."""
        controller = self._spec.controller
        if reason := not_yet(self._spec, view, options.last_germination):
            return Choice(reason)
        if options.changing:
            return Choice("a seed is being blended in or judged: the loss says nothing about the host alone")
        vain = self._vain_probe
        if vain is not None and view.epoch - vain < controller.patience_epochs:
            return Choice(f"a probe spoke against growing less than {controller.patience_epochs} epochs ago")
        trend, train = options.trend, options.train_trend
        if trend is not None and train is not None and trend.rising and train.slope < 0.0:
            numbers = {"controller_slope": trend.slope, "train_slope": train.slope}
            return Choice("the host overfits: it is not capacity that is short", numbers=numbers)
        eligible = candidates(str(controller.placement), view, options, controller.probe_steps, self._draws)
        hope = self._best(self._weigh(view, options, eligible.places, probed=0))
        if hope[1].advantage < controller.minimum_improvement or not eligible.probe:
            return self._answer(view, options, hope, eligible.method, probed=0)
        return self._probe(view, options, eligible)

    def _probe(self, view: RunView, options: Options, eligible: Probing) -> Choice:
        """Measure the places, and decide by what was found."""
        placement: Placement = place(eligible, view)
        probed = len(eligible.places)
        if placement.hopeless:
            self._vain_probe = view.epoch
            return Choice("the probe lowered the loss in no slot", numbers={"probed": float(probed)})
        best = self._best(self._weigh(view, options, placement.places, probed=probed))
        choice = self._answer(view, options, best, placement.method, probed=probed)
        if not choice.proposals:
            self._vain_probe = view.epoch
        return choice

    def _weigh(self, view: RunView, options: Options, places: tuple[Place, ...], *, probed: int) -> list[Weighed]:
        weighed: list[Weighed] = []
        for one in places:
            slot, record = view.slots[one.slot], one.kernel.record
            cost = options.costs.germination(view, slot, record, probed=probed, reserved=options.reserved)
            leverage = options.lessons.of(record.blueprint) * one.factor
            payoff = weigh(view, options.costs, cost, options.lessons.exponents, leverage)
            weighed.append((one, payoff, cost.numbers()))
        return weighed

    @staticmethod
    def _best(weighed: list[Weighed]) -> Weighed:
        """The highest payoff; places are in the order of the slots, and a small difference between them is none."""
        top = max((item[1] for item in weighed), key=lambda payoff: payoff.advantage)
        return next(item for item in weighed if item[1].advantage >= top.advantage - TIE * top.gain)

    def _answer(self, view: RunView, options: Options, best: Weighed, method: str, *, probed: int) -> Choice:
        chosen, payoff, cost = best
        numbers = {
            **payoff.numbers(),
            **cost,
            **{f"slot_{name}": value for name, value in view.slots[chosen.slot].statistics.items()},
            "exponent": options.lessons.exponents.lost,
            "leverage": options.lessons.leverage,
            "place_factor": chosen.factor,
            "kernel_score": chosen.kernel.score,
            "probed": float(probed),
        }
        if options.trend is not None:
            numbers["controller_slope"] = options.trend.slope
        if chosen.signal == chosen.signal:
            numbers["placement_signal"] = chosen.signal
        blueprint = chosen.kernel.record.blueprint
        if payoff.advantage < self._spec.controller.minimum_improvement:
            return Choice("growing does not pay for the compute that remains", numbers=numbers)
        reason = (
            f"{blueprint} in {chosen.slot} should bring {payoff.gain:.1%} of the loss in {payoff.grown_steps:.0f} "
            f"steps and cost {payoff.lost:.1%} ({method})"
        )
        return Choice(reason, (Proposal(chosen.slot, chosen.kernel.record.artifact_id, reason, numbers),))

    def accepted(self, order: Order, epoch: int) -> None:
        """Nothing to learn: the controller tells when seeds germinated."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers drawn, and when a probe last spoke against growing."""
        return {"draws": self._draws.count, "vain_probe": self._vain_probe}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._draws.count = int(state["draws"])
        self._vain_probe = None if state["vain_probe"] is None else int(state["vain_probe"])
