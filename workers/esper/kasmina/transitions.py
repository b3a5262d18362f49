"""Moving seeds through their lifecycle: the only place where a seed's stage changes.

Every move is checked against the canonical table, leaves an event with its reason and numbers, and does to the kernel
what the new stage means.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from leyline.errors import IdentityError, LifecycleError
from leyline.identity import kernel_number
from leyline.lifecycle import Actor, Gate, Stage, check
from leyline.resources.enums import Freeze, Objective
from torch import Tensor

from esper.errors import ArtifactError
from esper.kasmina import gates
from esper.kasmina.cache import Entry
from esper.kasmina.commands import Applied, Command, CommandKind
from esper.kasmina.gates import GateResult
from esper.kasmina.guard import GuardedKernel, KernelFault
from esper.kasmina.isolation import IsolatedLearner
from esper.kasmina.loading import KernelReport
from esper.kasmina.seed import ACTIVE, Scale, Seed, SeedEvent

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kernel import Kernel

_NEXT = {
    Stage.TRAINING: Stage.GRAFTING,
    Stage.GRAFTING: Stage.STABILIZATION,
    Stage.STABILIZATION: Stage.EVALUATING,
    Stage.EVALUATING: Stage.FINE_TUNING,
    Stage.FINE_TUNING: Stage.FOSSILIZED,
}
_STANDS_STILL = frozenset({Stage.STABILIZATION, Stage.EVALUATING})
_SWITCHED_OFF = frozenset({Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})


def move(
    bank: SeedBank,
    seed: Seed,
    target: Stage,
    actor: Actor,
    reason: str,
    numbers: Mapping[str, float] | None = None,
    results: tuple[GateResult, ...] = (),
) -> SeedEvent:
    """Take a seed to another stage.

    Raises:
        LifecycleError: the table has no such transition for this actor.
    """
    check(seed.stage, target, actor, seed.trainable)
    event = SeedEvent(
        seed=seed.id,
        slot=seed.slot,
        source=seed.stage,
        target=target,
        actor=actor,
        epoch=bank.epoch,
        reason=reason,
        numbers=dict(numbers or {}),
        gates=results,
        artifact_id=seed.artifact_id,
        blueprint=seed.blueprint,
    )
    seed.stage, seed.reason = target, reason
    seed.entered_epoch, seed.epochs_in_stage = bank.epoch, 0
    _enter(bank, seed)
    seed.history.append(event)
    bank.emit(event)
    update_ready(bank, seed)
    write_row(bank, seed)
    bank.mark_dirty()
    return event


def _enter(bank: SeedBank, seed: Seed) -> None:
    settings, stage = bank.settings, seed.stage
    if stage is Stage.TRAINING and seed.objective is not Objective.NONE:
        seed.learner = new_learner(bank, seed)
    elif stage is Stage.GRAFTING:
        seed.learner = None
        seed.scale = Scale()
        seed.touched = True
        seed.ramp_done = 0
        per_epoch = settings.steps_per_epoch or bank.last_epoch_steps or 1
        seed.ramp_steps = max(1, settings.grafting_epochs * per_epoch)
        seed.alpha_buffer.zero_()
    elif stage is Stage.STABILIZATION:
        seed.full = seed.alpha == 1.0
    elif stage is Stage.FINE_TUNING and settings.judged_twice:
        seed.verdict = None
    elif stage in _SWITCHED_OFF:
        seed.learner = None
    if stage is not Stage.ERROR_RECOVERY:  # entered inside a forward or backward pass, where nothing else may change
        set_gradients(bank, seed)
    if stage in (Stage.DORMANT, Stage.ROLLED_BACK):
        seed.kernel = seed.guarded = None
        seed.full = False
        seed.alpha_buffer.zero_()


def set_gradients(bank: SeedBank, seed: Seed) -> None:
    """Let the kernel's parameters require gradients as the stage wants it, and drop those they have."""
    if seed.kernel is None:
        return
    fossil = seed.stage is Stage.FOSSILIZED and (bank.settings.freeze is Freeze.IMMEDIATELY or bank.frozen)
    for parameter in seed.kernel.parameters():
        parameter.requires_grad_(seed.stage not in _STANDS_STILL and not fossil)
        parameter.grad = None


def new_learner(bank: SeedBank, seed: Seed) -> IsolatedLearner:
    """The learner of a seed in isolation."""
    assert seed.kernel is not None, "a seed learns with a kernel only"
    return IsolatedLearner(
        seed.kernel,
        seed.objective,
        seed.blend,
        bank.settings.isolation_learning_rate,
        bank.settings.output_scale_limit,
    )


def next_stage(seed: Seed) -> Stage:
    """The stage ADVANCE leads to, from TRAINING to FINE_TUNING."""
    fixed = seed.stage is Stage.EVALUATING and not seed.trainable
    return Stage.FOSSILIZED if fixed else _NEXT[seed.stage]


def update_ready(bank: SeedBank, seed: Seed) -> None:
    """Set ``ready``: the seed has finished what its stage is for."""
    settings = bank.settings
    match seed.stage:
        case Stage.TRAINING:
            isolated = settings.isolation_epochs if seed.objective is not Objective.NONE else 0
            seed.ready = seed.epochs_in_stage >= isolated
        case Stage.GRAFTING:
            seed.ready = seed.alpha == 1.0
        case Stage.STABILIZATION:
            seed.ready = seed.epochs_in_stage >= settings.stabilization_epochs
        case Stage.EVALUATING:
            seed.ready = seed.verdict is not None or not settings.judged
        case Stage.FINE_TUNING:
            seed.ready = seed.epochs_in_stage >= settings.fine_tuning_epochs
        case _:
            seed.ready = False


def write_row(bank: SeedBank, seed: Seed) -> None:
    """Bring the seed's row of the state up to date."""
    row = bank.row(seed)
    if seed.stage is Stage.DORMANT:
        bank.state.clear(row, bank.epoch)
        return
    bank.state.write(
        row,
        lifecycle=seed.stage,
        kernel_id=kernel_number(seed.artifact_id) if seed.artifact_id else 0,
        alpha=seed.alpha,
        health=seed.scale.ratio,
        last_update_epoch=bank.epoch,
        exec_latency_us=0.0 if bank.settings.deterministic else seed.latency_us,
    )


# -- commands ----------------------------------------------------------------------------------------------------


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
        blend=command.blend or settings.blend,
        objective=command.objective or settings.objective,
        schedule=command.schedule or settings.alpha_schedule,
    )
    check(seed.stage, Stage.GERMINATED, command.actor, seed.trainable)
    bank.seeds[seed.id] = seed
    room = {"alive": float(alive), "in_slot": float(len(taken))}
    admitted = GateResult(Gate.G0, True, "the slot has room; artifact id well formed, not evicted", room)
    reason = command.reason or "germination ordered"
    event = move(bank, seed, Stage.GERMINATED, command.actor, reason, command.numbers, (admitted,))
    return Applied(command.kind, True, event.reason, seed.id, event=event)


def _advance(bank: SeedBank, command: Command, seed: Seed) -> Applied:
    target = next_stage(seed) if seed.stage in _NEXT else None
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
    numbers = {**command.numbers, **_numbers(results)}
    if reason := _failures(results):
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
            learner = seed.learner
            if learner is None:
                norm = seed.warm_gradient
                health = gates.gradient_health(smallest=norm, largest=norm, last=norm, nonfinite=0, steps=1)
                learned = gates.isolated_learning(seed.objective, first=0.0, last=0.0, nonfinite=0, steps=0)
                return health, learned
            trace = learner.trace
            return (
                gates.gradient_health(
                    smallest=trace.smallest_norm,
                    largest=trace.largest_norm,
                    last=trace.last_norm,
                    nonfinite=trace.nonfinite_gradients,
                    steps=trace.steps,
                ),
                gates.isolated_learning(
                    seed.objective,
                    first=trace.first,
                    last=trace.last,
                    nonfinite=trace.nonfinite_losses,
                    steps=trace.steps,
                ),
            )
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


# -- the epoch boundary ------------------------------------------------------------------------------------------


def boundary(bank: SeedBank, epoch: int) -> None:
    """See :meth:`esper.kasmina.bank.SeedBank.boundary`."""
    bank.state.verify()
    bank.epoch = epoch
    stepped, bank.steps_since_boundary = bank.steps_since_boundary, 0
    if stepped:
        bank.last_epoch_steps = stepped
    for seed in list(bank.seeds.values()):
        seed.epochs_in_stage += bool(stepped)
        if seed.stage is Stage.ERROR_RECOVERY:
            move(bank, seed, Stage.CULLED, Actor.KASMINA, f"kernel failed at run time: {seed.fault}")
        elif seed.stage in (Stage.CULLED, Stage.CANCELLED) and not seed.touched:
            into_dormant(bank, seed, None, None)
        elif seed.stage is Stage.LOADING:
            _finish_loading(bank, seed)
    _promote(bank)
    for seed in bank.seeds.values():
        update_ready(bank, seed)
        if seed.stage is not Stage.DORMANT:
            write_row(bank, seed)
    bank.refresh()
    bank.deliver_reports()


def _promote(bank: SeedBank) -> None:
    active = sum(seed.active for seed in bank.seeds.values())
    for seed in bank.seeds.values():
        if seed.stage is not Stage.GERMINATED or active >= bank.settings.max_active:
            continue
        move(bank, seed, Stage.LOADING, Actor.KASMINA, "its turn in the queue")
        active += 1
        if bank.source is not None:
            bank.loader.request(seed.artifact_id, bank.source)


def _finish_loading(bank: SeedBank, seed: Seed) -> None:
    if bank.source is None:
        move(bank, seed, Stage.CULLED, Actor.KASMINA, "the bank has no kernel source")
        return
    outcome = bank.loader.poll(seed.artifact_id, wait=bank.settings.deterministic)
    if outcome is None or seed.artifact_id in bank.loader.cache.banned:
        bank.loader.request(seed.artifact_id, bank.source)
        outcome = bank.loader.poll(seed.artifact_id, wait=bank.settings.deterministic)
    if outcome is None:
        return
    entry = outcome.entry
    results = _load_gates(bank, seed, entry, outcome.error)
    if entry is None or not all(result.passed for result in results):
        reason = _failures(results) or f"load failed: {type(outcome.error).__name__}: {outcome.error}"
        move(bank, seed, Stage.CULLED, Actor.KASMINA, reason, _numbers(results), results)
        bank.report(KernelReport(seed.artifact_id, seed.id, seed.slot, "load", reason))
        return
    install(bank, seed, entry)
    target = Stage.TRAINING if seed.trainable else Stage.GRAFTING
    move(bank, seed, target, Actor.KASMINA, "kernel verified, loaded and warmed up", _numbers(results), results)


def _load_gates(bank: SeedBank, seed: Seed, entry: Entry | None, error: Exception | None) -> tuple[GateResult, ...]:
    if entry is not None:
        warm = GateResult(
            Gate.G3, True, "shape, dtype and finite values in the warm-up", {"gradient_norm": entry.gradient_norm}
        )
        return _sanity(bank, seed, entry), warm
    if isinstance(error, ArtifactError):
        return (GateResult(Gate.G0, False, f"{type(error).__name__}: {error}"),)
    if isinstance(error, KernelFault):
        return (GateResult(Gate.G3, False, str(error)),)
    return ()


def _failures(results: tuple[GateResult, ...]) -> str:
    return "; ".join(f"gate {result.gate} failed: {result.reason}" for result in results if not result.passed)


def _numbers(results: tuple[GateResult, ...]) -> dict[str, float]:
    return {f"{str(result.gate).lower()}_{key}": value for result in results for key, value in result.numbers.items()}


def _sanity(bank: SeedBank, seed: Seed, entry: Entry) -> GateResult:
    settings = bank.settings
    kernel = entry.kernel
    return gates.sanity(
        built=True,
        validated=True,
        interface_fits=kernel.interface.digest() == bank.slots[seed.slot].interface.digest(),
        parameters=sum(p.numel() for p in kernel.parameters()),
        parameters_used=bank.parameters_used,
        parameters_limit=settings.parameters_limit,
        risk=entry.risk,
        max_risk=settings.max_risk,
        approved=seed.blueprint in settings.approved,
    )


def install(bank: SeedBank, seed: Seed, entry: Entry) -> None:
    """Give a seed its own copy of a loaded kernel, with parameters drawn from a generator of its own."""
    kernel = copy.deepcopy(entry.kernel)
    digest = hashlib.sha256(f"{bank.settings.run_seed}:{seed.id}".encode()).digest()
    kernel.reset_parameters(torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1))
    attach(bank, seed, kernel)
    seed.warm_gradient, seed.latency_us = entry.gradient_norm, entry.latency_us


def attach(bank: SeedBank, seed: Seed, kernel: Kernel) -> None:
    """Put a kernel that is the seed's own on the host's device and behind its guard."""
    device = next((tensor.device for tensor in bank.host_tensors().values()), torch.device("cpu"))
    seed.kernel = kernel.to(device)
    seed.alpha_buffer = seed.alpha_buffer.to(device)
    seed.trainable = any(True for _ in kernel.parameters())
    seed.guarded = GuardedKernel(kernel, seed.blend, lambda error: bank.fault(seed, error))


def into_dormant(
    bank: SeedBank,
    seed: Seed,
    reference: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer | None,
) -> GateResult:
    """See :meth:`esper.kasmina.bank.SeedBank.cull_into_dormant`."""
    parameters = list(seed.kernel.parameters()) if seed.kernel is not None else []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]} if optimizer is not None else set()
    held |= {id(p) for p in optimizer.state} if optimizer is not None else set()
    result = gates.reset(
        bank.host_tensors(), reference, seed_parameters=parameters, optimized=held, affected_host=seed.touched
    )
    if seed.stage is Stage.DORMANT:
        return result
    move(
        bank, seed, Stage.DORMANT, Actor.KASMINA, "reset" if result.passed else result.reason, result.numbers, (result,)
    )
    bank.refresh()
    return result
