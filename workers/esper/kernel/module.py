"""The kernel as Kasmina sees it: an ``nn.Module`` that computes the branch s(u) of one blueprint for one interface."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.kernel.artifact import KernelManifest, manifest_for
from esper.kernel.errors import KernelInputError
from esper.kernel.initialisers import initialise
from esper.kernel.lowering import Lowering
from leyline.blueprint import BlueprintIR
from leyline.identity import kernel_number
from leyline.interface import Interface

__all__ = ["CompiledPath", "Kernel", "eager_kernel"]


class CompiledPath(Protocol):
    """A backend's way to compute the branch with gradients; shared by all copies of a kernel."""

    #: Smallest and largest batch size it was compiled for, inclusive.
    batch: tuple[int, int]
    #: Kind of device it runs on, e.g. ``cpu``.
    device: str

    def __call__(self, u: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return s(u), differentiable once with respect to ``u`` and every parameter; ``u`` is contiguous."""
        ...


class Kernel(nn.Module):
    """A blueprint's branch s(u): input and output have the slot's shape.

    In training mode the backend's path computes it, in evaluation mode always the reference lowering with the same
    parameters: what is measured on the controller's and the report's data, and what is saved and exported, then does
    not depend on how the kernel was compiled. A batch the compiled path was not built for (the odd one at the end of an
    epoch) takes the reference as well and is counted in ``reference_calls``.

    ``manifest``, ``ir``, ``interface``, ``flops_per_sample`` and ``backend`` say what it is. Copies share the compiled
    path and own their parameters.
    """

    def __init__(self, manifest: KernelManifest, compiled: CompiledPath | None = None) -> None:
        """Take the parameters' shapes from ``manifest`` and draw values that depend on the artifact id alone."""
        super().__init__()
        self.manifest = manifest
        self.ir: BlueprintIR = manifest.blueprint
        self.interface: Interface = manifest.slot_interface
        self.backend = manifest.backend
        self.flops_per_sample = manifest.flops_per_sample
        self.reference_calls = 0
        self._dtype: torch.dtype = getattr(torch, self.interface.dtype)
        self._sample_shape = tuple(self.interface.sample_shape)
        self._reference = Lowering.of(self.ir, self.interface)
        self._compiled = compiled
        for spec in manifest.parameters:
            empty = torch.empty(spec.shape, dtype=self._dtype)
            self.register_parameter(spec.name.replace(".", "_"), nn.Parameter(empty))
        seed = kernel_number(manifest.id) % 2**63
        self.reset_parameters(torch.Generator().manual_seed(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw every parameter anew from a CPU ``generator``; the same generator state gives the same bits."""
        for spec, parameter in zip(self.manifest.parameters, self.parameters(), strict=True):
            initialise(parameter, spec.init, generator)

    def forward(self, u: Tensor) -> Tensor:
        """Return s(u), shape and dtype as ``u``.

        Under autocast the reference computes as PyTorch would; the compiled path keeps the dtype it was built for.

        Raises:
            KernelInputError: shape, dtype or device do not fit the interface.
        """
        autocast = torch.is_autocast_enabled(u.device.type)
        self._check(u, autocast)
        parameters = [parameter for parameter in self._parameters.values() if parameter is not None]
        compiled = self._compiled
        if compiled is None or not self.training:
            return self._reference(u, parameters).to(u.dtype)
        if u.device.type != compiled.device:
            raise KernelInputError(
                f"{self.manifest.id}: compiled for {compiled.device}, but the input is on {u.device}"
            )
        if not compiled.batch[0] <= u.shape[0] <= compiled.batch[1]:
            self.reference_calls += 1
            return self._reference(u, parameters).to(u.dtype)
        with torch.autocast(u.device.type, enabled=False) if autocast else contextlib.nullcontext():
            return compiled(u.to(self._dtype).contiguous(), parameters).to(u.dtype)

    def warm_up(self) -> None:
        """Run forward and backward once on zeros with the smallest compiled batch; no gradient is left anywhere.

        The first call of a compiled half sets up its memory; doing it here keeps it out of a training step.
        """
        low, high = self._compiled.batch if self._compiled is not None else (1, 2)
        device = next(self.parameters(), torch.empty(0)).device
        u = torch.zeros(self.interface.shape(max(low, min(2, high))), dtype=self._dtype, device=device)
        was_training = self.training
        self.train()
        try:
            with torch.enable_grad():
                u.requires_grad_()
                wanted = [u, *(p for p in self.parameters() if p.requires_grad)]
                torch.autograd.grad(self(u).sum(), wanted, allow_unused=True)
        finally:
            self.train(was_training)

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        """Copy the parameters; share what never changes (recipe, reference lowering, compiled path)."""
        for shared in (self.manifest, self.ir, self.interface, self._reference, self._compiled):
            if shared is not None:
                memo[id(shared)] = shared
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def extra_repr(self) -> str:
        """Name the artifact, where PyTorch prints the model."""
        return f"{self.manifest.id}, {self.interface.layout.value} {self._sample_shape}, backend={self.backend}"

    def _check(self, u: Tensor, autocast: bool) -> None:
        if u.dim() != len(self._sample_shape) + 1 or tuple(u.shape[1:]) != self._sample_shape:
            raise KernelInputError(
                f"{self.manifest.id}: the input has shape {tuple(u.shape)}, the kernel takes (batch, "
                f"{', '.join(map(str, self._sample_shape))}); ask for a kernel of the slot's interface"
            )
        if u.dtype != self._dtype and not (autocast and u.is_floating_point()):
            raise KernelInputError(
                f"{self.manifest.id}: the input is {u.dtype}, the kernel takes {self._dtype}; "
                "ask for a kernel of the slot's interface"
            )
        first = next(iter(self._parameters.values()), None)
        if first is not None and first.device != u.device:
            raise KernelInputError(f"{self.manifest.id}: the input is on {u.device}, the parameters on {first.device}")


def eager_kernel(ir: BlueprintIR, interface: Interface) -> Kernel:
    """Make the reference kernel straight from a blueprint, without an artifact: for probes, saved models and tests.

    Raises:
        leyline.errors.BlueprintError: ``ir`` does not fit ``interface``.
    """
    return Kernel(manifest_for(ir, interface, "fast", "eager", {}, saved_bytes_per_sample=0))
