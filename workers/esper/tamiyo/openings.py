"""What may be grown now: the run narrowed to open slots and admissible kernels, with a reason for all that is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esper.tamiyo.cost import CostModel
from esper.tamiyo.scoring import Lessons, Scored, rank
from esper.tamiyo.views import IN_FLIGHT, RunView, SlotView
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from esper.urza.library import KernelRecord
    from leyline.resources import TrainingRunSpec

Offer = Callable[[SlotView], Sequence["KernelRecord"]]


@dataclass(frozen=True, slots=True)
class Terms:
    """What an opening must respect, and what the run has learned.

    ``parameters`` and ``flops`` are already promised to seeds in flight; ``closed_slots`` and ``closed_kernels`` are
    under embargo, with the epoch at which each opens again; ``only_trainable`` leaves out kernels without parameters,
    which would need the twin at once.
    """

    parameters: int = 0
    flops: float = 0.0
    closed_slots: Mapping[str, int] = field(default_factory=dict)
    closed_kernels: Mapping[str, int] = field(default_factory=dict)
    only_trainable: bool = False
    lessons: Lessons = field(default_factory=Lessons)


def risk_refusal(spec: TrainingRunSpec, record: KernelRecord) -> str:
    """Why the kernel's risk forbids it; empty if it does not, or if its blueprint is approved."""
    if record.approved or record.blueprint in spec.controller.approved:
        return ""
    if record.risk > spec.controller.max_risk:
        return f"risk {record.risk:.2f} is above controller.maxRisk {spec.controller.max_risk:g} and it is not approved"
    if "quarantined" in record.tags:
        return "quarantined and not approved"
    return ""


def budget_refusal(
    costs: CostModel,
    view: RunView,
    slot: SlotView,
    record: KernelRecord,
    *,
    parameters: int,
    flops: float,
    probed: int = 0,
    longer: int = 0,
) -> str:
    """Which limit the kernel would break on top of what is promised already; empty if none."""
    budget = view.budget
    wanted = budget.parameters_used + parameters + record.parameters
    if budget.parameters_limit is not None and wanted > budget.parameters_limit:
        return f"{wanted} parameters would exceed budget.parameters {budget.parameters_limit}"
    if budget.flops_limit is not None:
        cost = costs.germination(view, slot, record, probed=probed, reserved=flops, longer=longer)
        if cost.trial > costs.available(view) - flops:
            return "what remains of budget.trainingFlops does not cover its trial"
    return ""


def room(
    spec: TrainingRunSpec, costs: CostModel, view: RunView, *, germinations: int, conservative: bool
) -> tuple[int, str]:
    """How many seeds may germinate now, and if none, the first limit that is in the way."""
    if conservative:
        return 0, "loss spike: no germination for a while"
    active = sum(seed.stage in IN_FLIGHT for seed in view.seeds.values())
    left = {f"seeds.maxActive is {spec.seeds.max_active}": spec.seeds.max_active - active}
    if spec.seeds.max_total is not None:
        kept = sum(seed.stage is Stage.FOSSILIZED for seed in view.seeds.values())
        left[f"seeds.maxTotal is {spec.seeds.max_total}"] = spec.seeds.max_total - active - kept
    most = spec.controller.max_germinations
    if most is not None:
        left[f"controller.maxGerminations is {most}"] = most - germinations
    full = [reason for reason, places in left.items() if places <= 0]
    if full:
        return 0, full[0]
    needed = costs.calendar.until_fossilized
    if view.epochs - view.epoch < needed:
        return 0, f"a seed needs {needed} epochs until it is fossilized, which are no longer left"
    if costs.steps_per_epoch(view) <= 0:
        return 0, "before the first epoch there is nothing to judge by"
    return min(left.values()), ""


def find(
    spec: TrainingRunSpec, costs: CostModel, view: RunView, offer: Offer, terms: Terms
) -> tuple[dict[str, Sequence[Scored]], list[str]]:
    """Open slots with their admissible kernels, best first, and what stands against the rest, counted by reason.

    One pass over seeds and slots; kernels are looked at once for each distinct offer, however many slots share it,
    and again for a slot that has had a verdict.
    """
    flying: set[str] = set()
    kept: Counter[str] = Counter()
    for seed in view.seeds.values():
        if seed.stage in IN_FLIGHT:
            flying.add(seed.slot)
        elif seed.stage is Stage.FOSSILIZED:
            kept[seed.slot] += 1
    against: Counter[str] = Counter()
    ranked: dict[str, Sequence[Scored]] = {}
    known: dict[tuple[tuple[str, ...], int, str], tuple[Sequence[Scored], list[str]]] = {}
    judged = terms.lessons.evidence.slots
    for slot_id, slot in view.slots.items():
        if slot_id in flying:
            against["slot has a seed in flight"] += 1
        elif not slot.free or kept[slot_id] >= spec.seeds.max_per_slot:
            against["slot is full"] += 1
        elif slot_id in terms.closed_slots:
            against[f"slot is under embargo until epoch {terms.closed_slots[slot_id]}"] += 1
        else:
            records = offer(slot)
            own = slot_id if slot_id in judged else ""
            key = (tuple([record.artifact_id for record in records]), slot.calls, own)
            if key not in known:
                known[key] = _ranking(spec, costs, view, slot, records, terms)
            best, refused = known[key]
            if refused:
                against.update(refused)
            if best:
                ranked[slot_id] = best
            elif not records:
                against["no kernel is on offer for the slot's interface"] += 1
    return ranked, [f"{reason} ({count})" if count > 1 else reason for reason, count in sorted(against.items())]


def _ranking(
    spec: TrainingRunSpec,
    costs: CostModel,
    view: RunView,
    slot: SlotView,
    records: Sequence[KernelRecord],
    terms: Terms,
) -> tuple[Sequence[Scored], list[str]]:
    usable: list[KernelRecord] = []
    refused: list[str] = []
    for record in records:
        if reason := _refusal(spec, costs, view, slot, record, terms):
            refused.append(f"{record.blueprint}: {reason}")
        else:
            usable.append(record)
    best = rank(usable, view, slot, costs, terms.lessons, terms.flops)
    return best, refused


def _refusal(
    spec: TrainingRunSpec, costs: CostModel, view: RunView, slot: SlotView, record: KernelRecord, terms: Terms
) -> str:
    if record.artifact_id in view.evicted or record.artifact_id in terms.closed_kernels:
        return "its kernel is under embargo"
    if spec.kernels.blueprints and record.blueprint not in spec.kernels.blueprints:
        return "not in kernels.blueprints"
    if terms.only_trainable and record.parameters == 0:
        return "has no parameters and would need the twin at once"
    return risk_refusal(spec, record) or budget_refusal(
        costs, view, slot, record, parameters=terms.parameters, flops=terms.flops
    )
