"""Initial parameter values, drawn from a generator that is handed in: the global random state is never touched."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

__all__ = ["initialise"]


@torch.no_grad()
def initialise(parameter: torch.Tensor, init: str, generator: torch.Generator) -> None:
    """Fill ``parameter`` in place.

    ``kaiming_uniform`` and ``xavier_uniform`` are He et al. 2015 (gain √2, fan-in) and Glorot & Bengio 2010; draws are
    made on the CPU and copied, so that the values do not depend on the device.

    Raises:
        ValueError: an initialiser that does not exist.
    """
    shape = list(parameter.shape)
    if init in ("zeros", "ones"):
        parameter.fill_(float(init == "ones"))
        return
    values = torch.empty(shape, dtype=torch.float32)
    fan_in, fan_out = _fans(shape)
    if init == "kaiming_uniform":
        bound = math.sqrt(6.0 / max(fan_in, 1))
        values.uniform_(-bound, bound, generator=generator)
    elif init == "xavier_uniform":
        bound = math.sqrt(6.0 / max(fan_in + fan_out, 1))
        values.uniform_(-bound, bound, generator=generator)
    elif init == "normal_0.02":
        values.normal_(0.0, 0.02, generator=generator)
    else:
        raise ValueError(f"initialiser {init!r}: allowed are zeros, ones, kaiming_uniform, xavier_uniform, normal_0.02")
    parameter.copy_(values)


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Fan-in and fan-out of a weight (out, in, *kernel); a vector counts as one unit each way."""
    if len(shape) < 2:
        return (shape[0] if shape else 1), 1
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field
