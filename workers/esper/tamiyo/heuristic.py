"""The heuristic: grow when the host's own progress has become small and a kernel is expected to pay for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esper.tamiyo.payoff import Payoff, weigh
from esper.tamiyo.placement import Place, Placement, place
from esper.tamiyo.policy import Choice, Draws, Options, Proposal, not_yet

if TYPE_CHECKING:
    from esper.tamiyo.scoring import Scored
    from esper.tamiyo.trend import Trend
    from esper.tamiyo.views import Order, RunView
    from leyline.resources import TrainingRunSpec

#: Payoffs that differ by less than this share of the best one's kernel gain are equal; the earliest slot is taken.
TIE = 1.0 / 3.0


class Heuristic:
    """Asks in turn: is this the moment, is capacity what is short, does it pay, and where does it pay most?

    The questions that cost nothing come first; the probe is only run once growing would pay without it.
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
        trend = options.trend
        if trend is None:
            return Choice("too few losses since the network last changed to see where they are heading")
        if options.train_trend is not None and trend.rising and options.train_trend.slope < 0.0:
            numbers = {"controller_slope": trend.slope, "train_slope": options.train_trend.slope}
            return Choice("the host overfits: it is not capacity that is short", numbers=numbers)
        # An optimistic look first, before anything is spent on a probe.
        hope = self._most_hopeful(view, options, trend)
        numbers = {"controller_slope": trend.slope, "size_exponent": options.evidence.exponent, **hope.numbers()}
        if against := self._against(hope):
            return Choice(against, numbers=numbers)
        placement = place(str(controller.placement), view, options, controller.probe_steps, self._draws)
        if placement.hopeless:
            self._vain_probe = view.epoch
            return Choice(
                "the probe lowered the loss in no slot", numbers={**numbers, "probed": float(placement.probed)}
            )
        return self._propose(view, options, trend, placement)

    def _weigh(
        self, view: RunView, options: Options, trend: Trend, slot: str, one: Scored, probed: int, factor: float
    ) -> tuple[Payoff, dict[str, float]]:
        known = options.evidence.fit().get(one.record.blueprint, 1.0)
        cost = options.costs.germination(view, view.slots[slot], one.record, probed=probed, reserved=options.reserved)
        payoff = weigh(view, trend, cost, options.costs, options.evidence.exponent * known * factor)
        return payoff, cost.numbers()

    def _most_hopeful(self, view: RunView, options: Options, trend: Trend) -> Payoff:
        """The best payoff that any slot's best kernel promises; each distinct bill is weighed once."""
        bills = {
            (kernels[0].record.artifact_id, view.slots[slot].calls): slot for slot, kernels in options.ranked.items()
        }
        payoffs = (
            self._weigh(view, options, trend, slot, options.ranked[slot][0], 0, 1.0)[0] for slot in bills.values()
        )
        return max(payoffs, key=lambda payoff: payoff.advantage)

    def _against(self, payoff: Payoff) -> str:
        """What speaks against growing; empty if nothing does."""
        needed = self._spec.controller.minimum_improvement
        if payoff.advantage < needed:
            return "growing does not pay for the compute that remains"
        if payoff.next_epoch > payoff.gain:
            return "the host alone still gains more in an epoch than a kernel is expected to bring"
        return ""

    def _propose(self, view: RunView, options: Options, trend: Trend, placement: Placement) -> Choice:
        weighed: list[tuple[Place, Payoff, dict[str, float]]] = []
        for one in placement.places:
            payoff, cost = self._weigh(view, options, trend, one.slot, one.kernel, placement.probed, one.factor)
            weighed.append((one, payoff, cost))
        top = max(weighed, key=lambda item: item[1].advantage)[1]
        # Places are in the order of the slots, and a difference within the signal's noise is none.
        chosen, payoff, cost = next(item for item in weighed if item[1].advantage >= top.advantage - TIE * top.gain)
        numbers = {
            **payoff.numbers(),
            **cost,
            **{f"slot_{name}": value for name, value in view.slots[chosen.slot].statistics.items()},
            "controller_slope": trend.slope,
            "size_exponent": options.evidence.exponent,
            "kernel_score": chosen.kernel.score,
            "probed": float(placement.probed),
            "slots_weighed": float(len(weighed)),
        }
        if chosen.signal == chosen.signal:
            numbers["placement_signal"] = chosen.signal
        if against := self._against(payoff):
            self._vain_probe = view.epoch if placement.probed else None
            return Choice(against, numbers=numbers)
        reason = (
            f"{chosen.kernel.record.blueprint} in {chosen.slot} should end the run {payoff.advantage:.1%} "
            f"lower than the host alone ({placement.method})"
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
