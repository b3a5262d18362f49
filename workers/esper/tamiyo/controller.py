"""The controller: takes seeds through their stages, keeps every rule, and asks its policy whether and where to grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointMismatch, EsperError
from esper.tamiyo import drive as driving
from esper.tamiyo.cost import CostModel
from esper.tamiyo.decisions import DecisionLog
from esper.tamiyo.embargo import Embargo
from esper.tamiyo.evidence import Evidence
from esper.tamiyo.heuristic import Heuristic
from esper.tamiyo.memory import UNPROVEN, Ended, Life, Memory, latest
from esper.tamiyo.offers import Kernels, Offers, Source
from esper.tamiyo.openings import Terms, budget_refusal, find, room
from esper.tamiyo.payoff import Sight, exponent_of, settled
from esper.tamiyo.policy import Always, Choice, Fixed, Never, Options, Policy, Proposal, Random
from esper.tamiyo.reports import FieldReport
from esper.tamiyo.scoring import Lessons, Scored
from esper.tamiyo.trend import MIN_POINTS, Trend, fit
from esper.tamiyo.views import Decision, Order, OrderKind, RunView
from leyline.lifecycle import Actor, Stage, check

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec


SCHEMA = 3
#: Most refusals kept with one decision.
MAX_REFUSED = 16


def policy_for(spec: TrainingRunSpec) -> Policy:
    """The policy that ``spec.controller.policy`` names."""
    match str(spec.controller.policy):
        case "Never":
            return Never()
        case "Always":
            return Always()
        case "Random":
            return Random(spec)
        case "Fixed":
            return Fixed(spec)
        case _:
            return Heuristic(spec)


class TamiyoController:
    """Decides for one run. The same views in the same order give the same orders.

    Args:
        spec: the run's manifest.
        kernels: asked for slots that a view makes no offer for; ``hardware`` and ``toolchain`` go into the query.
        policy: instead of the one that ``spec.controller.policy`` names.
        on_report: receives each finished seed's field report, again later if it raised an ``EsperError``.
        on_decision: receives each decision that is not a repetition.
    """

    def __init__(
        self,
        spec: TrainingRunSpec,
        kernels: Kernels | None = None,
        *,
        policy: Policy | None = None,
        hardware: str = "",
        toolchain: str = "",
        on_report: Callable[[FieldReport], object] | None = None,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        self.spec = spec
        self.policy = policy if policy is not None else policy_for(spec)
        self.log = DecisionLog()
        self.costs = CostModel(spec)
        self._source = Source(spec, kernels, hardware, toolchain) if kernels is not None else None
        self._on_report, self._on_decision = on_report, on_decision
        self._embargo, self._memory, self._evidence = Embargo(), Memory(), Evidence()
        self._germinations = 0
        self._last_germination: int | None = None
        self._changed = 0
        self._refused: dict[str, int] = {}
        self._unsent: list[FieldReport] = []
        self._idle_reason = ""

    # -- the decision ------------------------------------------------------------------------------------------------

    def decide(self, view: RunView) -> list[Order]:
        """Orders for this epoch boundary, most often none; may be asked again once they were carried out."""
        self._embargo.evict(view.evicted)
        ended, lost = self._memory.observe(view)
        for life in lost:
            self._failed_germination(life, view.epoch)
        for end in ended:
            self._settle(end, view)
        self._note_changes(view)
        conservative = self._conservative(view)
        orders, refused = driving.drive(
            self.spec, view, conservative=conservative, fixed=self._memory.fixed, longer=self._memory.longer
        )
        orders = [order for order in orders if self._refused.get(_key(order)) != view.epoch]
        for order in orders:
            self._memory.intend(order)
        germinations, choice, against = self._grow(view, conservative=conservative)
        orders += germinations
        reason = "; ".join(_told(order) for order in orders[:4]) if orders else choice.reason
        decision = Decision(
            view.epoch, reason, tuple(orders), (*refused, *against)[:MAX_REFUSED], _finite(choice.numbers)
        )
        self._idle_reason = "" if orders else reason
        if self.log.add(decision) and self._on_decision is not None:
            self._on_decision(decision)
        self._send()
        return orders

    def conclude(self, view: RunView) -> None:
        """Settle what ended after the last decision, such as at the end of the run, and send its reports."""
        for end in self._memory.observe(view)[0]:
            self._settle(end, view)
        self._send()

    @property
    def idle_reason(self) -> str:
        """Why the last decision ordered nothing; empty if it did."""
        return self._idle_reason

    def refused(self, order: Order, reason: str, epoch: int) -> None:
        """Take note that an order was not carried out; the same is not ordered again at this epoch's end."""
        if order.kind is OrderKind.GERMINATE:
            life = self._memory.forget(order.slot)
            if life is not None:
                self._failed_germination(life, epoch)
        else:
            self._refused = {key: at for key, at in self._refused.items() if at == epoch}
            self._refused[_key(order)] = epoch
        self.log.add(Decision(epoch, f"refused: {_told(order)}", refused=(reason,)))

    def _conservative(self, view: RunView) -> bool:
        spike = view.loss_spike_epoch
        return spike is not None and view.epoch < spike + max(1, self.spec.controller.embargo_epochs)

    def _note_changes(self, view: RunView) -> None:
        """Remember until when the network was being changed: losses up to then say nothing about the host alone."""
        if view.loss_spike_epoch is not None:
            self._changed = max(self._changed, min(view.epoch, view.loss_spike_epoch))
        if any(seed.stage in driving.JUDGED for seed in view.seeds.values()):
            self._changed = max(self._changed, view.epoch)

    # -- what became of seeds ----------------------------------------------------------------------------------------

    def _settle(self, end: Ended, view: RunView) -> None:
        """Draw the consequences of a seed's end: embargoes, what is learned, its report."""
        epochs, life = self.spec.controller.embargo_epochs, end.life
        if end.outcome in (Stage.CULLED, Stage.ROLLED_BACK):
            self._embargo.slot(life.slot, view.epoch, epochs)
            self._embargo.kernel(life.artifact_id, view.epoch, epochs)
        if end.last is Stage.ERROR_RECOVERY:
            self._embargo.evict([life.artifact_id])
        if (
            end.last in (*driving.JUDGED, Stage.FINE_TUNING, Stage.ERROR_RECOVERY)
            and end.outcome is not Stage.FOSSILIZED
        ):
            self._changed = max(self._changed, view.epoch)
        if life.judged and end.outcome in (Stage.FOSSILIZED, Stage.CULLED):
            self._learn(end, view)
        self._unsent.append(self._memory.report(end, view))

    def _learn(self, end: Ended, view: RunView) -> None:
        life = end.life
        loss = life.evidence.get("twin_loss", life.pre_loss)
        blended, judged = life.reached.get("grafting"), life.reached.get("evaluating")
        steps = 0.0
        if blended is not None and judged is not None:
            steps = (judged - blended) * self.costs.steps_per_epoch(view) + self.costs.cooldown(view)
        # The verdict comes early: by the end of the run the kernel would bring more.
        self._evidence.verdict(
            life.slot,
            life.blueprint,
            promoted=end.outcome is Stage.FOSSILIZED,
            expected=settled(steps) * life.weight,
            effect=life.evidence.get("effect"),
            error=life.evidence.get("standard_error"),
            loss=loss,
        )

    def _failed_germination(self, life: Life, epoch: int) -> None:
        """An order to germinate that came to nothing is not counted, and its kernel not asked for again at once."""
        self._germinations -= 1
        self._embargo.kernel(life.artifact_id, epoch, max(1, self.spec.controller.embargo_epochs))

    def _send(self) -> None:
        if self._on_report is None:
            self._unsent.clear()
        while self._unsent and self._on_report is not None:
            try:
                self._on_report(self._unsent[0])
            except EsperError:
                return  # whoever receives reports is away; they are kept and offered again
            self._unsent.pop(0)

    # -- growing -----------------------------------------------------------------------------------------------------

    def _grow(self, view: RunView, *, conservative: bool) -> tuple[list[Order], Choice, list[str]]:
        capacity, reason = room(self.spec, self.costs, view, germinations=self._germinations, conservative=conservative)
        if capacity <= 0:
            return [], Choice(reason), []
        trend = fit(view.controller_losses, self._window(view.controller_losses))
        open_lives = self._memory.open
        terms = Terms(
            parameters=sum(life.parameters for life in open_lives if life.stage in UNPROVEN),
            flops=math.fsum(life.reserved_flops for life in open_lives),
            closed_slots=self._embargo.closed_slots(view.epoch),
            closed_kernels=self._embargo.closed_kernels(view.epoch),
            only_trainable=bool(open_lives) and self.spec.judge.mode != "Off",
            lessons=Lessons(
                self._evidence,
                exponent_of(view.controller_losses),
                Sight.of(self.spec.judge, view, self._evidence.resolution),
                sum(seed.stage is Stage.FOSSILIZED for seed in view.seeds.values()),
            ),
        )
        offer = Offers(view, self._source)
        ranked, against = find(self.spec, self.costs, view, offer, terms)
        against += offer.problems
        if not ranked:
            return [], Choice("no slot is open to a kernel"), against
        options = Options(
            ranked=ranked,
            capacity=capacity,
            costs=self.costs,
            trend=trend,
            train_trend=self._train_trend(view, trend),
            lessons=terms.lessons,
            last_germination=self._last_germination,
            changing=any(seed.stage in driving.JUDGED for seed in view.seeds.values()),
            reserved=terms.flops,
        )
        choice = self.policy.decide(view, options)
        orders = self._germinate(view, choice, options, terms, against)
        if not orders and choice.proposals:
            choice = Choice("what the policy wanted is not allowed", numbers=choice.numbers)
        return orders, choice, against

    def _window(self, losses: Sequence[float]) -> int:
        """Where the trend begins: the recent half of the run, long enough to fit, never across a change."""
        longest = max(MIN_POINTS, self.spec.controller.patience_epochs + 1)
        return max(self._changed, min(len(losses) // 2, len(losses) - longest), 0)

    def _train_trend(self, view: RunView, trend: Trend | None) -> Trend | None:
        return fit(view.train_losses, self._window(view.train_losses)) if trend is not None else None

    def _germinate(
        self, view: RunView, choice: Choice, options: Options, terms: Terms, against: list[str]
    ) -> list[Order]:
        """Turn proposals into orders, each checked against what the ones before it have taken."""
        orders: list[Order] = []
        parameters, flops = terms.parameters, terms.flops
        probed = int(choice.numbers.get("probed", 0))
        for proposal in choice.proposals:
            if len(orders) >= options.capacity:
                against.append(f"{proposal.slot}: no room for another seed now")
                continue
            one = _find(options.ranked, proposal)
            if one is None or any(order.slot == proposal.slot for order in orders):
                against.append(f"{proposal.slot}: not open to {proposal.artifact_id}")
                continue
            record, slot = one.record, view.slots[proposal.slot]
            alone = record.parameters == 0 and self.spec.judge.mode != "Off"
            if orders and (alone or self._fixed(orders)):
                against.append(f"{proposal.slot}: a kernel without parameters needs the twin for itself")
                continue
            longer = int(proposal.numbers.get("longer_epochs", 0))
            if over := budget_refusal(
                self.costs, view, slot, record, parameters=parameters, flops=flops, probed=probed, longer=longer
            ):
                against.append(f"{proposal.slot}: {record.blueprint}: {over}")
                continue
            cost = self.costs.germination(view, slot, record, probed=probed, reserved=flops, longer=longer)
            worth = terms.lessons.exponent * terms.lessons.discount * proposal.numbers.get("place_factor", 1.0)
            check(Stage.DORMANT, Stage.GERMINATED, Actor.TAMIYO)
            order = Order(
                OrderKind.GERMINATE,
                proposal.slot,
                Stage.GERMINATED,
                proposal.reason,
                artifact_id=record.artifact_id,
                blueprint=record.blueprint,
                blend=str(self.spec.seeds.blend),
                numbers=_finite({**cost.numbers(), "kernel_score": one.score, **proposal.numbers}),
            )
            self._memory.germinating(
                order,
                Life(
                    proposal.slot,
                    record.blueprint,
                    record.artifact_id,
                    germinated=view.epoch,
                    parameters=record.parameters,
                    fixed=record.parameters == 0,
                    weight=worth * math.log1p(cost.step_ratio),
                    longer=longer,
                    reserved_flops=cost.once,
                    pre_loss=latest(view.controller_losses),
                    pre_metric=latest(view.controller_metrics),
                ),
            )
            parameters, flops = parameters + record.parameters, flops + cost.once
            self._germinations += 1
            self._last_germination = view.epoch
            self.policy.accepted(order, view.epoch)
            orders.append(order)
        return orders

    def _fixed(self, orders: Sequence[Order]) -> bool:
        return self.spec.judge.mode != "Off" and any(order.numbers["kernel_parameters"] == 0.0 for order in orders)

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything later decisions depend on, and the log, as JSON values."""
        return {
            "schema": SCHEMA,
            "policy_name": type(self.policy).__name__,
            "policy": self.policy.state_dict(),
            "embargo": self._embargo.state_dict(),
            "memory": self._memory.state_dict(),
            "evidence": self._evidence.state_dict(),
            "log": self.log.state_dict(),
            "germinations": self._germinations,
            "last_germination": self._last_germination,
            "changed": self._changed,
            "refused": dict(self._refused),
            "unsent": [report.to_dict() for report in self._unsent],
            "idle_reason": self._idle_reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``.

        Raises:
            CheckpointMismatch: the state is of another version or another policy.
        """
        if state.get("schema") != SCHEMA:
            raise CheckpointMismatch(f"controller state has schema {state.get('schema')}; this version reads {SCHEMA}")
        if state["policy_name"] != type(self.policy).__name__:
            raise CheckpointMismatch(
                f"controller state is of policy {state['policy_name']}, the run asks for {type(self.policy).__name__}; "
                "resume with the policy the run began with"
            )
        self.policy.load_state_dict(state["policy"])
        self._embargo.load_state_dict(state["embargo"])
        self._memory.load_state_dict(state["memory"])
        self._evidence.load_state_dict(state["evidence"])
        self.log.load_state_dict(state["log"])
        self._germinations = int(state["germinations"])
        self._last_germination = state["last_germination"]
        self._changed = int(state["changed"])
        self._refused = {str(key): int(at) for key, at in state["refused"].items()}
        self._unsent = [FieldReport.from_dict(report) for report in state["unsent"]]
        self._idle_reason = str(state["idle_reason"])


def _find(ranked: Mapping[str, Sequence[Scored]], proposal: Proposal) -> Scored | None:
    kernels = ranked.get(proposal.slot, ())
    return next((one for one in kernels if one.record.artifact_id == proposal.artifact_id), None)


def _key(order: Order) -> str:
    return f"{order.seed}>{order.target.name}"


def _told(order: Order) -> str:
    return f"{order.kind.value} {order.seed or order.slot} to {order.target.name}: {order.reason}"


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
