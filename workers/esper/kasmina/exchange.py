"""A bank's state out and in: for checkpoints, for the twin, for saving the grown model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.errors import CheckpointMismatch, SlotError
from esper.kasmina import transitions
from esper.kasmina.records import seed_from_dict, seed_to_dict
from esper.kasmina.seed import AFFECTS_HOST, Seed
from esper.kasmina.slots import Slot
from esper.kasmina.state_tensor import StateTensor
from esper.kasmina.statistics import SlotStatistics
from leyline.interface import Interface
from leyline.lifecycle import Stage
from leyline.resources.enums import Blend

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kernel import Kernel

SCHEMA = 2
HOST = "host/"
_HOLDS_KERNEL = AFFECTS_HOST | {Stage.TRAINING}

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]


@dataclass(frozen=True)
class DeployedKernel:
    """One kernel of the grown model, in the order it is applied: its branch joins with ``blend`` and a fixed
    ``alpha``.
    """

    seed: str
    artifact_id: str
    blueprint: str
    kernel: Kernel
    blend: Blend
    alpha: float


@dataclass(frozen=True)
class DeployedSlot:
    """A slot of the grown model: the output of ``module_path`` (chunk ``chunk`` of ``chunks``) goes through the
    kernels in order.
    """

    id: str
    module_path: str
    aliases: tuple[str, ...]
    chunk: int
    chunks: int
    interface: Interface
    kernels: tuple[DeployedKernel, ...]


def export_state(bank: SeedBank, *, host: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See :meth:`esper.kasmina.bank.SeedBank.export_state`."""
    tensors = {f"state/{name}": array.clone() for name, array in bank.state.arrays.items()}
    if host:
        tensors.update({HOST + name: tensor.detach().clone() for name, tensor in bank.host_tensors().items()})
    for seed in bank.seeds.values():
        if seed.kernel is None or seed.stage not in _HOLDS_KERNEL:
            continue
        tensors[f"seed/{seed.id}/alpha"] = seed.alpha_buffer.detach().clone()
        for name, tensor in kernel_tensors(seed.kernel).items():
            tensors[f"seed/{seed.id}/kernel/{name}"] = tensor.detach().clone()
        if seed.learner is not None:
            for name, tensor in seed.learner.export_state()[0].items():
                tensors[f"seed/{seed.id}/learner/{name}"] = tensor.detach().clone()
    meta = {
        "schema": SCHEMA,
        "slots": list(bank.slots),
        "max_per_slot": bank.settings.max_per_slot,
        "crc": bank.state.crc,
        "epoch": bank.epoch,
        "last_epoch_steps": bank.last_epoch_steps,
        "steps_since_boundary": bank.steps_since_boundary,
        "seeds": [seed_to_dict(seed) for seed in bank.seeds.values()],
        "evicted": bank.loader.cache.banned,
        "statistics": {slot: asdict(value) for slot, value in bank.statistics().items()},
        "commands": bank.receiver.sequences() if bank.receiver is not None else None,
    }
    return tensors, meta


def kernel_tensors(kernel: nn.Module) -> dict[str, Tensor]:
    """A kernel's parameters and buffers by name."""
    return {**dict(kernel.named_parameters()), **dict(kernel.named_buffers())}


def import_state(bank: SeedBank, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """See :meth:`esper.kasmina.bank.SeedBank.import_state`. Nothing changes unless all of it can be taken."""

    def from_source(seed: Seed) -> Kernel:
        if bank.source is None:
            raise CheckpointMismatch(
                f"seed {seed.id} needs kernel {seed.artifact_id}, but the bank has no kernel source"
            )
        entry = bank.loader.load_now(seed.artifact_id, bank.source, even_if_evicted=True)
        return copy.deepcopy(entry.kernel)

    _restore(bank, tensors, meta, from_source)


def _restore(
    bank: SeedBank, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], provide: Callable[[Seed], Kernel]
) -> None:
    if meta.get("schema") != SCHEMA:
        raise CheckpointMismatch(f"seed state of schema {meta.get('schema')!r}; this version reads {SCHEMA}")
    if meta["slots"] != list(bank.slots) or meta["max_per_slot"] != bank.settings.max_per_slot:
        raise CheckpointMismatch(
            f"the saved seeds sit in {len(meta['slots'])} slots of {meta['max_per_slot']} places, this model has "
            f"{len(bank.slots)} of {bank.settings.max_per_slot}; resume with the manifest the run began with"
        )
    state = StateTensor(len(bank.slots) * bank.settings.max_per_slot)
    state.load({name: tensors[f"state/{name}"] for name in state.arrays if f"state/{name}" in tensors}, meta["crc"])
    try:
        seeds = [_seed(bank, tensors, data, provide) for data in meta["seeds"]]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatch(f"the saved seed state is damaged ({type(error).__name__}: {error})") from error
    bank.state = state
    bank.seeds = {seed.id: seed for seed in seeds}
    bank.epoch = meta["epoch"]
    bank.last_epoch_steps, bank.steps_since_boundary = meta["last_epoch_steps"], meta["steps_since_boundary"]
    bank.capturing, bank.shadowing = False, None
    for artifact_id, reason in meta["evicted"].items():
        bank.loader.cache.ban(artifact_id, reason)
    bank.take_statistics({slot: SlotStatistics(**values) for slot, values in meta["statistics"].items()})
    if bank.receiver is not None and meta["commands"] is not None:
        bank.receiver.restore(meta["commands"])
    bank.refresh()


def _seed(
    bank: SeedBank, tensors: Mapping[str, Tensor], data: Mapping[str, Any], provide: Callable[[Seed], Kernel]
) -> Seed:
    seed = seed_from_dict(data)
    if seed.stage not in _HOLDS_KERNEL:
        return seed
    transitions.attach(bank, seed, provide(seed))
    assert seed.kernel is not None
    with torch.no_grad():
        seed.alpha_buffer.copy_(tensors[f"seed/{seed.id}/alpha"])
        for name, tensor in kernel_tensors(seed.kernel).items():
            tensor.copy_(tensors[f"seed/{seed.id}/kernel/{name}"])
    transitions.set_gradients(bank, seed)
    if data["learner"] is not None:
        seed.learner = learner = transitions.new_learner(bank, seed)
        prefix = f"seed/{seed.id}/learner/"
        found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        learner.import_state(found, data["learner"])
    return seed


def fork(bank: SeedBank, without: str | None) -> tuple[nn.Module, SeedBank]:
    """See :meth:`esper.kasmina.bank.SeedBank.fork`.

    Raises:
        SlotError: there is no such seed, or the model can't be copied.
    """
    if without is not None and without not in bank.seeds:
        raise SlotError(f"there is no seed {without!r} to fork without; seeds: {', '.join(bank.seeds) or 'none'}")
    bank.remove_hooks()
    try:
        model = copy.deepcopy(bank.model)
    except Exception as error:
        raise SlotError(f"{type(bank.model).__name__} can't be copied ({type(error).__name__}: {error})") from error
    finally:
        bank.sync_hooks()
    other = bank.sibling(model)
    tensors, meta = export_state(bank, host=False)
    meta["seeds"] = [data for data in meta["seeds"] if data["id"] != without]

    def copied(seed: Seed) -> Kernel:
        kernel = copy.deepcopy(bank.seeds[seed.id].kernel)
        assert kernel is not None
        kernel.zero_grad(set_to_none=True)
        return kernel

    _restore(other, tensors, meta, copied)
    if without is not None:
        other.state.clear(bank.row(bank.seeds[without]), bank.epoch)
    return model, other


def adopt(bank: SeedBank, other: SeedBank | State) -> None:
    """See :meth:`esper.kasmina.bank.SeedBank.adopt`.

    Raises:
        CheckpointMismatch: host tensors or seeds of the twin have no counterpart here; nothing was changed then.
    """
    tensors, meta = other if isinstance(other, tuple) else export_state(other, host=True)
    pairs: list[tuple[Tensor, Tensor]] = []
    given = {name[len(HOST) :]: tensor for name, tensor in tensors.items() if name.startswith(HOST)}
    if given:
        own = bank.host_tensors()
        wrong = sorted(set(own) ^ set(given)) or [n for n in own if own[n].shape != given[n].shape]
        if wrong:
            raise CheckpointMismatch(
                f"the twin's host differs from this one in {len(wrong)} tensors, first {wrong[0]!r}"
            )
        pairs += [(own[name], given[name]) for name in own]
    live: list[tuple[Seed, Mapping[str, Any]]] = []
    for data in meta["seeds"]:
        if Stage[data["stage"]] not in _HOLDS_KERNEL:
            continue
        seed = bank.seeds.get(data["id"])
        if seed is None or seed.kernel is None or seed.artifact_id != data["artifact_id"]:
            raise CheckpointMismatch(f"the twin holds seed {data['id']} with {data['artifact_id']}, this bank does not")
        prefix = f"seed/{seed.id}/"
        pairs.append((seed.alpha_buffer, tensors[prefix + "alpha"]))
        pairs += [(value, tensors[f"{prefix}kernel/{name}"]) for name, value in kernel_tensors(seed.kernel).items()]
        live.append((seed, data))
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    for seed, data in live:
        twin = seed_from_dict(data)
        seed.ramp_done, seed.ramp_steps, seed.scale = twin.ramp_done, twin.ramp_steps, twin.scale
        if seed.learner is not None and data["learner"] is not None:
            prefix = f"seed/{seed.id}/learner/"
            seed.learner.import_state(
                {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)},
                data["learner"],
            )
        transitions.write_row(bank, seed)


def deploy_plan(bank: SeedBank) -> list[DeployedSlot]:
    """See :meth:`esper.kasmina.bank.SeedBank.deploy_plan`."""
    plan = []
    for slot in bank.slots.values():
        kernels = tuple(
            DeployedKernel(seed.id, seed.artifact_id, seed.blueprint, seed.kernel, seed.blend, seed.alpha)
            for seed in bank.seeds_in(slot.id)
            if seed.affects_host and seed.kernel is not None and not seed.switched_off
        )
        if kernels:
            plan.append(_deployed(slot, kernels))
    return plan


def _deployed(slot: Slot, kernels: tuple[DeployedKernel, ...]) -> DeployedSlot:
    return DeployedSlot(slot.id, slot.module_path, slot.aliases, slot.chunk, slot.chunks, slot.interface, kernels)
