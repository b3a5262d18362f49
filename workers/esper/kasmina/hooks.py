"""What runs inside the host's forward pass: one hook per module that carries a seed with something to do.

A module whose slots are all dormant has no hook. The hook never raises because of a kernel: a fault is reported to
the bank and the slot's activation goes on unchanged in the same call.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.errors import SlotError
from esper.kasmina.blending import blend
from esper.kasmina.guard import GuardedKernel, KernelFault
from esper.kasmina.seed import Seed
from esper.kasmina.slots import Slot
from esper.kasmina.statistics import Accumulator, mean_square
from leyline.lifecycle import Stage

_MEASURE_EVERY = 16


class Host(Protocol):
    """What a hook needs of its bank."""

    capturing: bool
    shadowing: Seed | None

    def fault(self, seed: Seed, error: Exception, *, blame_kernel: bool = True) -> None:
        """Take note that a seed failed inside a forward or backward pass."""


class SlotRuntime:
    """The seeds of one slot in their order, and the statistics being taken."""

    def __init__(self, slot: Slot, host: Host) -> None:
        self.slot, self.host = slot, host
        self.seeds: list[Seed] = []
        self.accumulator: Accumulator | None = None
        self.trial: GuardedKernel | None = None
        interface = slot.interface
        self.feature_dim = interface.feature_dim
        self._shape = tuple(interface.shape(1))[1:]

    @property
    def needed(self) -> bool:
        """True if the slot's module needs a hook now."""
        if self.accumulator is not None or self.trial is not None:
            return True
        return any(
            seed.affects_host
            or seed is self.host.shadowing
            or (seed.stage is Stage.TRAINING and seed.learner is not None and seed.learner.captures_activations)
            for seed in self.seeds
        )

    def apply(self, u: Tensor, training: bool) -> Tensor:
        """The slot's activation after its seeds; ``u`` itself if nothing changed it."""
        for seed in self.seeds:
            shadowed = seed is self.host.shadowing
            if shadowed or seed.affects_host:
                u = self._graft(seed, u, training, shadowed)
            elif (
                seed.stage is Stage.TRAINING
                and self.host.capturing
                and seed.learner is not None
                and seed.learner.captures_activations
                and torch.is_grad_enabled()
                and tuple(u.shape[1:]) == self._shape
            ):
                seed.learner.capture(u)
        if self.trial is not None:
            u = self._try(self.trial, u)
        if self.accumulator is not None and u.dim() == len(self._shape) + 1:
            self.accumulator.add(u, self.feature_dim)
        return u

    def _graft(self, seed: Seed, u: Tensor, training: bool, shadowed: bool) -> Tensor:
        guarded, kernel = seed.guarded, seed.kernel
        if guarded is None or kernel is None or seed.switched_off:
            return u
        if tuple(u.shape[1:]) != self._shape:
            self.host.fault(
                seed,
                KernelFault(
                    f"the host's output became {tuple(u.shape)}, the slot was measured as (batch, *{self._shape})"
                ),
                blame_kernel=False,
            )
            return u
        training = training and not seed.reference_only
        if kernel.training != training:
            kernel.train(training)
        try:
            branch = guarded(u)
        except KernelFault as error:
            self.host.fault(seed, error)
            # a fossilized seed is part of the host: its kernel's reference path, if that works, keeps the function
            return self._graft(seed, u, training, shadowed) if seed.reference_only and training else u
        due = seed.ramp_done % _MEASURE_EVERY == 1 or seed.scale.measured == 0
        ramping = training and seed.stage is Stage.GRAFTING and due
        if not shadowed and (ramping or self.accumulator is not None):
            seed.scale.branch += float(mean_square(branch))
            seed.scale.host += float(mean_square(u))
            seed.scale.measured += 1
        return blend(seed.blend, u, branch, None if shadowed or seed.full else seed.alpha_buffer)

    def _try(self, trial: GuardedKernel, u: Tensor) -> Tensor:
        try:
            return blend(trial.blend, u, trial(u), None)
        except KernelFault as error:
            trial.failed(error)
            self.trial = None
            return u


class ModuleHook:
    """The forward hook of one module: hands each slot its part of the features."""

    def __init__(self, runtimes: list[SlotRuntime]) -> None:
        self.runtimes = runtimes

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        """Change the module's output, or return None to leave it."""
        if not isinstance(output, Tensor):
            raise SlotError(
                f"slot {self.runtimes[0].slot.id!r}: {type(module).__name__} returned a {type(output).__name__}, "
                f"in the sample's pass it returned a tensor"
            )
        first = self.runtimes[0]
        if len(self.runtimes) == 1:
            changed = first.apply(output, module.training)
            return None if changed is output else changed
        parts = output.chunk(len(self.runtimes), first.feature_dim)
        results = [runtime.apply(part, module.training) for runtime, part in zip(self.runtimes, parts, strict=True)]
        if all(result is part for result, part in zip(results, parts, strict=True)):
            return None
        return torch.cat(results, first.feature_dim)

    def __deepcopy__(self, memo: dict[int, Any]) -> InertHook:
        self._must_not_be_missed("copied by itself; use bank.fork()")
        return InertHook()

    def __reduce__(self) -> tuple[type[InertHook], tuple[()]]:
        self._must_not_be_missed("pickled; save it with esper.save_model")
        return InertHook, ()

    def _must_not_be_missed(self, what: str) -> None:
        """Refuse what would leave behind a model that silently computes something else."""
        grown = [seed.id for runtime in self.runtimes for seed in runtime.seeds if seed.affects_host]
        if grown:
            raise SlotError(f"a model that seeds affect ({', '.join(grown)}) can't be {what}")


class InertHook:
    """What a copy of the model carries in place of a hook that only watches."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave the module's output alone."""


def sync(model: nn.Module, runtimes: Iterable[SlotRuntime], handles: dict[str, RemovableHandle]) -> None:
    """Install a hook on every module that needs one now, remove the others; ``handles`` holds them by module path."""
    modules: dict[str, list[SlotRuntime]] = {}
    for runtime in runtimes:
        modules.setdefault(runtime.slot.module_path, []).append(runtime)
    for path, together in modules.items():
        needed = any(runtime.needed for runtime in together)
        if needed and path not in handles:
            handles[path] = model.get_submodule(path).register_forward_hook(ModuleHook(together))
        elif not needed and path in handles:
            handles.pop(path).remove()
