"""Data sets held in memory and read by index, so that a run's data order is a function of its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from esper.errors import TaskError


@runtime_checkable
class Data(Protocol):
    """A split: a number of examples, and any batch of them by index."""

    def __len__(self) -> int:
        """Number of examples."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the examples ``indices`` (int64, shape ``(B,)``), each with ``B`` rows, in that order.

        The same indices must give the same values every time: augmentation belongs into the model or not at all,
        because a resumed run and a twin must see the same batches.
        """


class TensorData:
    """Examples in two tensors with one row each."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        """Raises ``TaskError`` unless both tensors have the same number of rows, at least one."""
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise TaskError(
                f"TensorData: inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must have the same "
                "number of rows"
            )
        if len(inputs) == 0:
            raise TaskError("TensorData: there are no examples; give at least one row")
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``indices`` of inputs and targets."""
        return self.inputs[indices], self.targets[indices]


def consecutive(inputs: Tensor, targets: Tensor, sizes: Sequence[int]) -> list[TensorData]:
    """Disjoint runs of rows with the given sizes, in order."""
    ends = list(accumulate(sizes))
    return [
        TensorData(inputs[end - size : end], targets[end - size : end]) for size, end in zip(sizes, ends, strict=True)
    ]


class TokenData:
    """Windows of a token stream; the target of each token is the next one.

    Example ``i`` starts at token ``i * stride`` and is ``context`` tokens long: inputs and targets have shape
    ``(B, context)``, dtype int64. With ``stride == context`` (the default) every token is a target once.
    """

    def __init__(self, tokens: Tensor, context: int, stride: int | None = None) -> None:
        """Raises ``TaskError`` if ``tokens`` is no int64 vector or is too short for one window."""
        step = context if stride is None else stride
        if tokens.ndim != 1 or tokens.dtype != torch.int64:
            raise TaskError(f"TokenData: tokens must be an int64 vector, not {tokens.dtype} {tuple(tokens.shape)}")
        if context < 1 or step < 1:
            raise TaskError(f"TokenData: context ({context}) and stride ({step}) must be at least 1")
        if len(tokens) < context + 1:
            raise TaskError(f"TokenData: {len(tokens)} tokens are too few for one window of {context} and its targets")
        self.tokens = tokens
        self.context = context
        self.stride = step
        self._offsets = torch.arange(context)

    def __len__(self) -> int:
        return (len(self.tokens) - self.context - 1) // self.stride + 1

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Windows ``indices`` and the same windows one token later."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"window index outside 0..{len(self) - 1}")
        positions = indices[:, None] * self.stride + self._offsets
        return self.tokens[positions], self.tokens[positions + 1]
