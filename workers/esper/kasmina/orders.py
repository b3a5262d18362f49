"""Carrying out commands: what is asked is checked against places, lifecycle and gates before anything changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina import gates
from esper.kasmina.commands import Applied, Command, CommandKind
from esper.kasmina.gates import GateResult
from esper.kasmina.isolation import Trace
from esper.kasmina.seed import ACTIVE, Seed, SeedEvent
from esper.kasmina.transitions import NEXT, move, next_stage
from leyline.errors import IdentityError, LifecycleError
from leyline.identity import kernel_number
from leyline.lifecycle import Actor, Gate, Stage, check
from leyline.resources.enums import AlphaSchedule, Blend, Objective

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank


def order(bank: SeedBank, command: Command) -> Applied:
    """See :meth:`esper.kasmina.bank.SeedBank.order`."""
    try:
        if command.kind is CommandKind.GERMINATE:
            return _germinate(bank, command)
        seed = bank.seeds.get(command.seed or "")
        if command.kind is CommandKind.ROLLBACK:
            return _rollback(bank, command, seed)
        if seed is None:
            known = ", ".join(bank.seeds) or "none"
            return _refused(command, f"there is no seed {command.seed!r}; seeds: {known}", "UnknownSeed")
        if command.kind is CommandKind.ADVANCE:
            return _advance(bank, command, seed)
        target = Stage.CANCELLED if command.kind is CommandKind.CANCEL else Stage.CULLED
        event = move(bank, seed, target, command.actor, command.reason or f"{command.kind} ordered", command.numbers)
        bank.refresh()
        return Applied(command.kind, True, event.reason, seed.id, event=event)
    except LifecycleError as error:
        return _refused(command, str(error), "LifecycleError")


def _refused(command: Command, reason: str, error: str, event: SeedEvent | None = None) -> Applied:
    return Applied(command.kind, False, reason, command.seed, error, event)


def _germinate(bank: SeedBank, command: Command) -> Applied:
    settings = bank.settings
    slot = bank.slots.get(command.slot)
    if slot is None:
        return _refused(command, f"there is no slot {command.slot!r}; slots: {', '.join(bank.slots)}", "UnknownSlot")
    if not command.artifact_id:
        return _refused(command, "a germination must name the kernel's artifact", "NoArtifact")
    try:
        kernel_number(command.artifact_id)
    except IdentityError as error:
        return _refused(command, str(error), "BadArtifactId")
    if command.artifact_id in bank.loader.cache.banned:
        why = bank.loader.cache.banned[command.artifact_id]
        return _refused(command, f"kernel {command.artifact_id} was evicted for good: {why}", "Evicted")
    taken = bank.seeds_in(slot.id)
    if len(taken) >= settings.max_per_slot:
        holders = ", ".join(f"{seed.id} ({seed.stage.name})" for seed in taken)
        return _refused(command, f"slot {slot.id!r} is full: {holders}", "SlotFull")
    alive = sum(
        seed.stage in ACTIVE or seed.stage in (Stage.GERMINATED, Stage.FOSSILIZED) for seed in bank.seeds.values()
    )
    if settings.max_total is not None and alive >= settings.max_total:
        return _refused(command, f"{alive} seeds are alive, the limit is {settings.max_total}", "TooManySeeds")
    ordinal = 1 + max((seed.ordinal for seed in bank.seeds.values() if seed.slot == slot.id), default=-1)
    seed = Seed(
        id=f"{slot.id}/{ordinal}",
        slot=slot.id,
        ordinal=ordinal,
        position=min(set(range(settings.max_per_slot)) - {other.position for other in taken}),
        artifact_id=command.artifact_id,
        blueprint=command.blueprint,
        blend=Blend(command.blend or settings.blend),
        objective=Objective(command.objective or settings.objective),
        schedule=AlphaSchedule(command.schedule or settings.alpha_schedule),
    )
    check(seed.stage, Stage.GERMINATED, command.actor, seed.trainable)
    bank.seeds[seed.id] = seed
    room = {"alive": float(alive), "in_slot": float(len(taken))}
    admitted = GateResult(Gate.G0, True, "the slot has room; artifact id well formed, not evicted", room)
    reason = command.reason or "germination ordered"
    event = move(bank, seed, Stage.GERMINATED, command.actor, reason, command.numbers, (admitted,))
    return Applied(command.kind, True, event.reason, seed.id, event=event)


def _advance(bank: SeedBank, command: Command, seed: Seed) -> Applied:
    target = next_stage(seed) if seed.stage in NEXT else None
    if target is None:
        return _refused(command, f"seed {seed.id} in {seed.stage.name} has no stage to advance to", "LifecycleError")
    if command.target is not None and command.target is not target:
        return _refused(
            command,
            f"seed {seed.id} in {seed.stage.name} goes to {target.name}, not {command.target.name}",
            "LifecycleError",
        )
    check(seed.stage, target, command.actor, seed.trainable)
    if not seed.ready:
        return _refused(command, f"seed {seed.id} is not ready to leave {seed.stage.name}", "NotReady")
    results = _gates(bank, seed)
    if seed.stage in (Stage.EVALUATING, Stage.FINE_TUNING) and bank.settings.judged and seed.verdict is None:
        return _refused(command, f"seed {seed.id}: {results[0].reason}", "NoVerdict")
    numbers = {**command.numbers, **gates.numbers_of(results)}
    if reason := gates.failures(results):
        event = move(bank, seed, Stage.CULLED, Actor.KASMINA, reason, numbers, results)
        bank.refresh()
        return _refused(command, reason, "GateFailed", event)
    event = move(bank, seed, target, command.actor, command.reason or "stage finished", numbers, results)
    bank.refresh()
    return Applied(command.kind, True, event.reason, seed.id, event=event)


def _gates(bank: SeedBank, seed: Seed) -> tuple[GateResult, ...]:
    settings = bank.settings
    match seed.stage:
        case Stage.TRAINING:
            return _isolation_gates(seed)
        case Stage.GRAFTING:
            return (
                gates.interface_while_blending(
                    alpha=seed.alpha,
                    scale=seed.scale.ratio,
                    limit=settings.output_scale_limit,
                    measured=seed.scale.measured,
                    faults=seed.faults,
                ),
            )
        case Stage.EVALUATING | Stage.FINE_TUNING:
            return (gates.system_impact(seed.verdict, judged=settings.judged),)
        case _:
            return ()


def _isolation_gates(seed: Seed) -> tuple[GateResult, ...]:
    trace = seed.learner.trace if seed.learner is not None else Trace()
    learned = gates.isolated_learning(
        seed.objective, first=trace.first, last=trace.last, nonfinite=trace.nonfinite_losses, steps=trace.steps
    )
    if seed.learner is None or (seed.objective is Objective.RECONSTRUCTION and trace.exact):
        # nothing was learned, or there was nothing left to learn: the warm-up is what shows that gradients flow
        norm = seed.warm_gradient
        return gates.gradient_health(smallest=norm, largest=norm, last=norm, nonfinite=0, steps=1), learned
    health = gates.gradient_health(
        smallest=trace.smallest_norm,
        largest=trace.largest_norm,
        last=trace.last_norm,
        nonfinite=trace.nonfinite_gradients,
        steps=trace.steps,
    )
    return health, learned


def _rollback(bank: SeedBank, command: Command, seed: Seed | None) -> Applied:
    reason = command.reason or "rollback ordered"
    if seed is None:
        # it germinated after the checkpoint that was restored: what is locked is its place
        slot, _, ordinal = (command.seed or "").rpartition("/")
        if slot not in bank.slots or not ordinal.isdecimal() or not bank.free(slot):
            return _refused(command, f"there is no seed or free place {command.seed!r} to lock", "UnknownSeed")
        taken = {other.position for other in bank.seeds_in(slot)}
        seed = Seed(
            id=f"{slot}/{int(ordinal)}",
            slot=slot,
            ordinal=int(ordinal),
            position=min(set(range(bank.settings.max_per_slot)) - taken),
            artifact_id=command.artifact_id,
            blueprint=command.blueprint,
            blend=bank.settings.blend,
            objective=bank.settings.objective,
            schedule=bank.settings.alpha_schedule,
            stage=Stage.GERMINATED,
        )
        check(seed.stage, Stage.ROLLED_BACK, command.actor, seed.trainable)
        bank.seeds[seed.id] = seed
    event = move(bank, seed, Stage.ROLLED_BACK, command.actor, reason, command.numbers)
    bank.refresh()
    return Applied(command.kind, True, reason, seed.id, event=event)
