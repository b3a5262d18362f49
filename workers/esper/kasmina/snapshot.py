"""Run a model on the side and leave nothing behind: buffers, training flags and random number generators come back
bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore every buffer (value and object), every training flag and the global random number generators on leaving.

    Buffers are restored whether they were changed in place or replaced. Parameters are not copied: what runs inside
    must not write to them. Plain Python attributes that a module changes in its forward (a counter, say) are outside
    what can be restored.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    empty = [(module, name) for module in model.modules() for name, held in module._buffers.items() if held is None]
    with untouched_rng():
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    if not same_bits(buffer, value):
                        buffer.copy_(value)
                    module._buffers[name] = buffer
            for module, name in empty:
                module._buffers[name] = None


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Restore the state of torch's global generators (CPU and every initialised CUDA device) on leaving."""
    cpu = torch.get_rng_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def same_bits(left: Tensor, right: Tensor) -> bool:
    """True if both have the same dtype, shape and bytes (a NaN equals itself, +0 differs from −0)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.numel() == 0:
        return True
    a = left.detach().contiguous().reshape(-1).view(torch.uint8)
    b = right.detach().contiguous().reshape(-1).view(torch.uint8)
    return bool(torch.equal(a, b))
