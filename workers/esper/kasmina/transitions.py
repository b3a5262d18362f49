"""Moving seeds through their lifecycle: the only place where a seed's stage changes.

Every move is checked against the canonical table, leaves an event with its reason and numbers, and does to the kernel
what the new stage means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from esper.kasmina.gates import GateResult
from esper.kasmina.guard import GuardedKernel
from esper.kasmina.isolation import IsolatedLearner
from esper.kasmina.seed import Scale, Seed, SeedEvent
from leyline.identity import kernel_number
from leyline.lifecycle import Actor, Stage, check
from leyline.resources.enums import Freeze, Objective

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kernel import Kernel

NEXT = {
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
    return Stage.FOSSILIZED if fixed else NEXT[seed.stage]


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


def write_row(bank: SeedBank, seed: Seed, *, seal: bool = True) -> None:
    """Bring the seed's row of the state up to date; without ``seal`` the caller renews the checksum."""
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
        seal=seal,
    )


def attach(bank: SeedBank, seed: Seed, kernel: Kernel) -> None:
    """Put a kernel that is the seed's own on the host's device and behind its guard."""
    device = next((tensor.device for tensor in bank.host_tensors().values()), torch.device("cpu"))
    seed.kernel = kernel.to(device)
    seed.alpha_buffer = seed.alpha_buffer.to(device)
    seed.trainable = any(True for _ in kernel.parameters())
    seed.guarded = GuardedKernel(kernel, seed.blend, lambda error: bank.fault(seed, error))
