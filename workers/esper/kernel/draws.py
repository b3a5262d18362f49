"""Random parameters and inputs on which kernels are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from esper.kernel.initialisers import initialise
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["draw"]


def draw(ir: BlueprintIR, interface: Interface, batch: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Draw parameters and an input. What starts at zero or one is moved off it: zeros would hide mistakes."""
    dtype = getattr(torch, interface.dtype)
    parameters = []
    for spec in ir.parameters(interface):
        parameter = torch.empty(spec.shape, dtype=dtype)
        if spec.init in ("zeros", "ones"):
            noise = torch.randn(spec.shape, generator=generator) * 0.1
            parameter.copy_(noise + float(spec.init == "ones"))
        else:
            initialise(parameter, spec.init, generator)
        parameters.append(parameter)
    return parameters, torch.randn(interface.shape(batch), generator=generator).to(dtype)
