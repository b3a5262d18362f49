"""The processes that train one network together, as a bank sees them: what each measured apart is brought together.

A bank knows of its peers only this much. Who they are and how they are reached is the trainer's
(:mod:`esper.tolaria.ranks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Peers(Protocol):
    """What a bank asks of the other ranks; every rank calls the same methods in the same order."""

    @property
    def alone(self) -> bool:
        """There are no others."""

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each rank, in the order of ranks."""

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of each rank, in the order of ranks; all have the same shape and dtype."""

    def reduce(
        self, values: Sequence[Tensor | None], like: Sequence[Tensor], note: Sequence[float]
    ) -> tuple[list[Tensor | None], list[list[float]]]:
        """Mean of each tensor over the ranks (None where no rank has one), and the ranks' notes, in one collective."""


class Alone:
    """No others."""

    alone = True

    def gather(self, value: Any) -> list[Any]:
        """See :class:`Peers`."""
        return [value]

    def gather_tensor(self, tensor: Tensor) -> list[Tensor]:
        """See :class:`Peers`."""
        return [tensor]

    def reduce(
        self, values: Sequence[Tensor | None], like: Sequence[Tensor], note: Sequence[float]
    ) -> tuple[list[Tensor | None], list[list[float]]]:
        """See :class:`Peers`."""
        return list(values), [list(note)]


ALONE = Alone()
