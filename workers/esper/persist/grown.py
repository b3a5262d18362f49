"""The grown part of a loaded model: a slot's module with its kernels behind it, and nothing of the seed machinery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ModelError
from esper.kasmina.blending import blend
from leyline.resources.enums import Blend


class Branch(nn.Module):
    """One kernel and how its output joins the slot's: ``alpha`` None means exactly 1."""

    alpha: Tensor | None

    def __init__(self, kernel: nn.Module, kind: Blend, alpha: float | None) -> None:
        super().__init__()
        self.kernel = kernel
        self.kind = kind
        self.register_buffer("alpha", None if alpha is None else torch.tensor(alpha))

    def forward(self, u: Tensor) -> Tensor:
        """The slot's activation after this kernel; same shape and dtype as ``u``."""
        return blend(self.kind, u, self.kernel(u.contiguous()), self.alpha)


class Grown(nn.Module):
    """``host`` followed by the kernels of its slots, ``branches[chunk]`` in order; ``dim`` is the feature dimension.

    Attributes and methods of the host module stay reachable under their own names.
    """

    def __init__(self, host: nn.Module, chunks: int, dim: int, branches: Mapping[int, Sequence[Branch]]) -> None:
        super().__init__()
        self.esper_host = host
        self.esper_branches = nn.ModuleDict({str(chunk): nn.Sequential(*parts) for chunk, parts in branches.items()})
        self._chunks = chunks
        self._dim = dim
        self.train(host.training)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The host's output, grown."""
        output: Tensor = self.esper_host(*args, **kwargs)
        if self._chunks == 1:
            return self._grow("0", output)
        parts = output.chunk(self._chunks, self._dim)
        return torch.cat([self._grow(str(chunk), part) for chunk, part in enumerate(parts)], self._dim)

    def _grow(self, chunk: str, u: Tensor) -> Tensor:
        if chunk in self.esper_branches:
            u = self.esper_branches[chunk](u)
        return u

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            host = self.__dict__.get("_modules", {}).get("esper_host")
            if host is None:
                raise
            return getattr(host, name)


def replace_everywhere(model: nn.Module, old: nn.Module, made: nn.Module) -> None:
    """Put ``made`` wherever ``model`` refers to ``old``: as a submodule under any name, in a list, tuple or dict.

    Raises:
        ModelError: ``old`` is the model itself.
    """
    if old is model:
        raise ModelError("the whole model can't be a slot; name one of its modules")
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = made
        for name, value in list(module.__dict__.items()):
            if not name.startswith("_") or name not in _OF_TORCH:
                changed = _swap(value, old, made)
                if changed is not value:
                    module.__dict__[name] = changed


_OF_TORCH = frozenset(vars(nn.Module()))
_DEPTH = 4


def _swap(value: Any, old: nn.Module, made: nn.Module, depth: int = _DEPTH) -> Any:
    """``value`` with ``old`` replaced inside plain containers; lists and dicts are changed in place."""
    if value is old:
        return made
    if depth == 0:
        return value
    if type(value) is list:
        value[:] = [_swap(item, old, made, depth - 1) for item in value]
    elif type(value) is dict:
        for key in value:
            value[key] = _swap(value[key], old, made, depth - 1)
    elif type(value) is tuple:
        swapped = tuple(_swap(item, old, made, depth - 1) for item in value)
        return swapped if any(one is not other for one, other in zip(value, swapped, strict=True)) else value
    return value
