"""What happens to seeds at the end of an epoch: loads finish, waiting seeds get their turn, resets are completed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.errors import ArtifactError
from esper.kasmina import gates
from esper.kasmina.cache import Entry
from esper.kasmina.gates import GateResult
from esper.kasmina.guard import KernelFault
from esper.kasmina.loading import KernelReport, KernelSource, Loaded
from esper.kasmina.seed import Seed
from esper.kasmina.together import agree_on_loads
from esper.kasmina.transitions import attach, move, update_ready, write_row
from leyline.lifecycle import Actor, Gate, Stage

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank


def boundary(bank: SeedBank, epoch: int) -> None:
    """See :meth:`esper.kasmina.bank.SeedBank.boundary`."""
    bank.state.verify()
    bank.unite()
    loaded = _loads(bank)
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
            _finish_loading(bank, seed, loaded.get(seed.id))
    promote(bank)
    for seed in bank.seeds.values():
        update_ready(bank, seed)
        if seed.stage is not Stage.DORMANT:
            write_row(bank, seed, seal=False)
    bank.state.seal()
    bank.refresh()
    bank.deliver_reports()


def promote(bank: SeedBank) -> None:
    """Let germinated seeds start to load, first come first served, while fewer than ``max_active`` are active."""
    active = sum(seed.active for seed in bank.seeds.values())
    for seed in bank.seeds.values():
        if seed.stage is not Stage.GERMINATED or active >= bank.settings.max_active:
            continue
        move(bank, seed, Stage.LOADING, Actor.KASMINA, "its turn in the queue")
        active += 1
        if bank.source is not None:
            bank.loader.request(seed.artifact_id, bank.source)


def _loads(bank: SeedBank) -> dict[str, Loaded | None]:
    """What became of the kernels of seeds in LOADING, by seed."""
    if bank.source is None:
        return {}
    found = {seed.id: _poll(bank, seed, bank.source) for seed in bank.seeds.values() if seed.stage is Stage.LOADING}
    return found if bank.peers.alone or not found else agree_on_loads(bank, found)


def _poll(bank: SeedBank, seed: Seed, source: KernelSource) -> Loaded | None:
    outcome = bank.loader.poll(seed.artifact_id, wait=bank.settings.deterministic)
    if outcome is None or seed.artifact_id in bank.loader.cache.banned:
        bank.loader.request(seed.artifact_id, source)
        outcome = bank.loader.poll(seed.artifact_id, wait=bank.settings.deterministic)
    return outcome


def _finish_loading(bank: SeedBank, seed: Seed, outcome: Loaded | None) -> None:
    if bank.source is None:
        move(bank, seed, Stage.CULLED, Actor.KASMINA, "the bank has no kernel source")
        return
    if outcome is None:
        return
    entry = outcome.entry
    results = _load_gates(bank, seed, entry, outcome.error)
    if entry is None or not all(result.passed for result in results):
        reason = gates.failures(results) or f"load failed: {type(outcome.error).__name__}: {outcome.error}"
        move(bank, seed, Stage.CULLED, Actor.KASMINA, reason, gates.numbers_of(results), results)
        bank.report(KernelReport(seed.artifact_id, seed.id, seed.slot, "load", reason))
        return
    install(bank, seed, entry)
    target = Stage.TRAINING if seed.trainable else Stage.GRAFTING
    move(bank, seed, target, Actor.KASMINA, "kernel verified, loaded and warmed up", gates.numbers_of(results), results)


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
        bank.host_tensors(),
        reference,
        seed_parameters=parameters,
        optimized=held,
        affected_host=seed.touched,
        judged=bank.settings.judged,
    )
    if seed.stage is Stage.DORMANT or not result.passed:
        return result
    move(bank, seed, Stage.DORMANT, Actor.KASMINA, "reset", result.numbers, (result,))
    bank.refresh()
    return result
