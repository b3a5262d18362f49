"""The eager backend: PyTorch's own kernels called in the blueprint's order. The reference, and the fallback."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from esper.kernel.artifact import Artifact
from esper.kernel.backends import Built
from esper.kernel.lowering import Lowering
from esper.kernel.module import Kernel
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["EagerBackend", "saved_bytes_per_sample"]


class EagerBackend:
    """Nothing to compile: the recipe in the manifest is the whole artifact."""

    name = "eager"

    def unavailable(self) -> str | None:
        """Return None: it can always be built."""
        return None

    def build(self, ir: BlueprintIR, interface: Interface, workdir: Path) -> Built:
        """Check the recipe against the interface and measure what it keeps for the backward pass.

        Raises:
            leyline.errors.BlueprintError: ``ir`` does not fit ``interface``.
        """
        return Built(saved_bytes_per_sample(ir, interface))

    def load(self, artifact: Artifact) -> Kernel:
        """Make the kernel; a few milliseconds."""
        return Kernel(artifact.manifest)


def saved_bytes_per_sample(ir: BlueprintIR, interface: Interface) -> int:
    """Bytes of activations PyTorch keeps for the backward pass, for each sample of a batch.

    Counted on two small batches, as the difference: parameters and constants drop out, shared storages are counted
    once, the kernel's own input not at all (the host holds it). Meta tensors would need no memory, but their first use
    imports ten seconds' worth of decompositions.
    """
    lowering = Lowering.of(ir, interface)
    totals = []
    for batch in (1, 2):
        parameters = [torch.zeros(p.shape, requires_grad=True) for p in ir.parameters(interface)]
        u = torch.zeros(interface.shape(batch), requires_grad=True)
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = lowering(u, parameters)
        storages.pop(u.untyped_storage()._cdata, None)
        totals.append(sum(storages.values()))
        del out
    element = torch.empty((), dtype=getattr(torch, interface.dtype)).element_size()
    return (totals[1] - totals[0]) * element // 4
