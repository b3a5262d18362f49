"""The heuristic: a trial is begun where, and only where, what it should bring is more than its price.

Measured: of 5,300 steps' worth of compute, growth after 3, 8, 17, 33 and 58 % of it ended at 93.4, 93.0, 92.1, 91.9 and
91.5 % accuracy. So nothing waits for a plateau; what decides is whether enough compute remains, and what the verdicts
so far let hope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.tamiyo.payoff import Payoff, weigh
from esper.tamiyo.placement import Place, Probing, candidates, place, signals
from esper.tamiyo.policy import Choice, Draws, Options, Proposal, not_yet
from esper.tamiyo.views import Candidate, Numbers

if TYPE_CHECKING:
    from esper.tamiyo.views import Order, RunView
    from leyline.resources import TrainingRunSpec

#: Payoffs that differ by less than this share of the best one's kernel gain are equal; the earliest slot is taken.
TIE = 0.05
#: Epochs by which the blending may be made longer, so that the judge sees more of what the kernel brings.
LONGER = (0, 1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Weighed:
    """One place with the best that can be made of it."""

    place: Place
    payoff: Payoff
    longer: int
    numbers: Numbers


class Heuristic:
    """Asks in turn: is this the moment, is capacity what is short, is a trial worth its price, and where most?

    The questions that cost nothing come first; a probe is only run once a trial would be worth it by what the depth of
    the slots lets expect, and what it measured is kept until the network is another.
    """

    def __init__(self, spec: TrainingRunSpec) -> None:
        self._spec = spec
        self._draws = Draws(spec.seed)
        self._signals: dict[Candidate, float] = {}
        self._asked: set[Candidate] = set()
        self._found_by = ""
        self._probed_at: int | None = None
        self._kept = 0

    def decide(self, view: RunView, options: Options) -> Choice:
        """At most one germination, with the expected payoff behind it; else what speaks against it."""
        controller = self._spec.controller
        if reason := not_yet(self._spec, view, options.last_germination):
            return Choice(reason)
        if options.changing:
            return Choice("a seed is being blended in or judged: the loss says nothing about the host alone")
        trend, train = options.trend, options.train_trend
        if trend is not None and train is not None and trend.rising and train.slope < 0.0:
            numbers = {"controller_slope": trend.slope, "train_slope": train.slope}
            return Choice("the host overfits: it is not capacity that is short", numbers=numbers)
        eligible = candidates(str(controller.placement), view, options, controller.probe_steps)
        # Measuring must be worth it too, so its price counts before it is paid.
        ahead = len(eligible.places) if eligible.probe and self._outdated(view, options.lessons.kept) else 0
        hoped = self._answer(view, options, eligible.places, eligible.method, probed=ahead)
        if not hoped.proposals:
            return hoped
        if controller.placement == "Random":
            drawn = eligible.places[self._draws.below(len(eligible.places))]
            return self._proposal(options, view, self._weigh(view, options, drawn, 0), eligible.method, 0)
        return self._probe(view, options, eligible) if eligible.probe else hoped

    def _probe(self, view: RunView, options: Options, eligible: Probing) -> Choice:
        """Decide by what is known of the places, and measure what is not."""
        assert view.probe is not None
        if self._outdated(view, options.lessons.kept):
            self._signals.clear()
            self._asked.clear()
        unknown = [one.candidate for one in eligible.places if one.candidate not in self._asked]
        if unknown:
            self._asked.update(unknown)
            found, self._found_by = signals(eligible.method, view.probe(unknown))
            self._signals.update(found)
            self._probed_at, self._kept = view.epoch, options.lessons.kept
        probed = len(unknown)
        places = place(eligible, self._signals, view, options)
        if not places:
            return Choice("the probe lowered the loss in no slot", numbers={"probed": float(probed)})
        return self._answer(view, options, places, self._found_by, probed=probed)

    def _outdated(self, view: RunView, kept: int) -> bool:
        """True if the network has grown since the last probe, or if that found nothing some time ago."""
        if self._probed_at is None or self._kept != kept:
            return True
        hopeless = max(self._signals.values(), default=0.0) <= 0.0
        return hopeless and view.epoch - self._probed_at >= self._spec.controller.patience_epochs

    def _weigh(self, view: RunView, options: Options, one: Place, probed: int) -> Weighed:
        """The payoff of one place, with the blending as long as is best for it."""
        slot, record, lessons = view.slots[one.slot], one.kernel.record, options.lessons
        belief = lessons.of(one.slot, record.blueprint).scaled(one.factor)
        spare = view.epochs - view.epoch - options.costs.calendar.until_fossilized
        best: Weighed | None = None
        for longer in LONGER if lessons.sight.threshold is not None else LONGER[:1]:
            if longer > max(0, spare):
                break
            cost = options.costs.germination(
                view, slot, record, probed=probed, reserved=options.reserved, longer=longer
            )
            if cost.trial > options.costs.available(view) - options.reserved and best is not None:
                break
            payoff = weigh(view, options.costs, cost, lessons.exponent, belief, lessons.sight)
            if best is None or payoff.advantage > best.payoff.advantage:
                numbers = {**payoff.numbers(), **cost.numbers(), "hope": belief.mean, "doubt": belief.spread}
                best = Weighed(one, payoff, longer, {**numbers, "longer_epochs": float(longer)})
        assert best is not None
        return best

    def _answer(
        self, view: RunView, options: Options, places: tuple[Place, ...], method: str, *, probed: int = 0
    ) -> Choice:
        """The place with the highest payoff if that is enough; a small difference goes to the earlier slot."""
        weighed = [self._weigh(view, options, one, probed) for one in places]
        top = max((one.payoff for one in weighed), key=lambda payoff: payoff.advantage)
        best = next(one for one in weighed if one.payoff.advantage >= top.advantage - TIE * top.gain)
        choice = self._proposal(options, view, best, method, probed)
        if best.payoff.advantage < self._spec.controller.minimum_improvement:
            return Choice("growing does not pay: a trial costs more than it should bring", numbers=choice.numbers)
        return choice

    @staticmethod
    def _proposal(options: Options, view: RunView, best: Weighed, method: str, probed: int) -> Choice:
        """The choice to grow in a place, with all that speaks for and against it."""
        chosen, payoff = best.place, best.payoff
        numbers = {
            **best.numbers,
            **{f"slot_{name}": value for name, value in view.slots[chosen.slot].statistics.items()},
            "exponent": options.lessons.exponent,
            "judge_error": options.lessons.sight.error,
            "place_factor": chosen.factor,
            "kernel_score": chosen.kernel.score,
            "probed": float(probed),
        }
        if options.trend is not None:
            numbers["controller_slope"] = options.trend.slope
        if not math.isnan(chosen.signal):
            numbers["placement_signal"] = chosen.signal
        blueprint = chosen.kernel.record.blueprint
        reason = (
            f"{blueprint} in {chosen.slot} should bring {payoff.gain:.1%} of the loss in {payoff.grown_steps:.0f} "
            f"steps for {payoff.price:.1%} ({payoff.kept:.0%} likely to be kept; {method})"
        )
        return Choice(reason, (Proposal(chosen.slot, chosen.kernel.record.artifact_id, reason, numbers),), numbers)

    def accepted(self, order: Order, epoch: int) -> None:
        """Nothing to learn: the controller tells when seeds germinated."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers drawn, and what was last probed."""
        return {
            "draws": self._draws.count,
            "signals": [[one.slot, one.artifact_id, value] for one, value in self._signals.items()],
            "asked": sorted([one.slot, one.artifact_id] for one in self._asked),
            "found_by": self._found_by,
            "probed_at": self._probed_at,
            "kept": self._kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._draws.count = int(state["draws"])
        self._signals = {Candidate(str(s), str(a)): float(value) for s, a, value in state["signals"]}
        self._asked = {Candidate(str(s), str(a)) for s, a in state["asked"]}
        self._found_by = str(state["found_by"])
        self._probed_at = None if state["probed_at"] is None else int(state["probed_at"])
        self._kept = int(state["kept"])
