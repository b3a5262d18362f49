"""What a slot offers and a kernel is built for: layout, feature width, trailing shape, dtype, batch range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from leyline import canonical
from leyline.errors import InterfaceError, describe

MAX_WIDTH = 8192
"""Largest feature width of a slot or of a node in a blueprint."""
MAX_ELEMENTS = 2**24
"""Largest number of elements one sample may have at any point of a blueprint."""
MAX_BATCH = 2**20
DTYPES = ("float32", "bfloat16", "float16", "float64")


class Layout(StrEnum):
    """Meaning of a tensor's dimensions; B is the batch and C the features."""

    VECTOR = "vector"
    """(B, C)"""
    SEQUENCE = "sequence"
    """(B, T, C)"""
    IMAGE1D = "image1d"
    """(B, C, L)"""
    IMAGE2D = "image2d"
    """(B, C, H, W)"""

    @property
    def trailing_rank(self) -> int:
        """How many position dimensions (T, L or H and W) the layout has."""
        return _TRAILING_RANK[self]

    @property
    def features_last(self) -> bool:
        """Whether the features are the last dimension rather than the one after the batch."""
        return self is Layout.SEQUENCE

    def sample_shape(self, width: int, trailing: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of one sample, without the batch dimension."""
        return (*trailing, width) if self.features_last else (width, *trailing)


_TRAILING_RANK = {Layout.VECTOR: 0, Layout.SEQUENCE: 1, Layout.IMAGE1D: 1, Layout.IMAGE2D: 2}


def _integer(field: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise InterfaceError(field, f"{describe(value)} is not allowed", f"an integer from {low} to {high}")
    return value


@dataclass(frozen=True)
class Interface:
    """The tensors that pass through a slot.

    `width`: number of features. `trailing`: () for vectors, (T,) for sequences, (L,) or (H, W) for images, all fixed.
    `batch`: smallest and largest batch size, inclusive.

    Raises:
        InterfaceError: a field is out of its domain, or does not fit the layout.
    """

    layout: Layout
    width: int
    trailing: tuple[int, ...] = ()
    dtype: str = "float32"
    batch: tuple[int, int] = (1, 4096)

    def __post_init__(self) -> None:
        layout = _layout(self.layout)
        object.__setattr__(self, "layout", layout)
        _integer("width", self.width, 1, MAX_WIDTH)
        if not isinstance(self.trailing, tuple | list) or len(self.trailing) != layout.trailing_rank:
            raise InterfaceError(
                "trailing", f"{describe(self.trailing)} does not fit {layout.value}", f"{layout.trailing_rank} integers"
            )
        object.__setattr__(self, "trailing", tuple(self.trailing))
        for index, size in enumerate(self.trailing):
            _integer(f"trailing[{index}]", size, 1, MAX_ELEMENTS)
        if self.width * math.prod(self.trailing) > MAX_ELEMENTS:
            raise InterfaceError("trailing", "one sample has too many elements", f"at most {MAX_ELEMENTS}")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise InterfaceError("dtype", f"{describe(self.dtype)} is not allowed", ", ".join(DTYPES))
        if not isinstance(self.batch, tuple | list) or len(self.batch) != 2:
            raise InterfaceError("batch", f"{describe(self.batch)} is not a range", "[smallest, largest]")
        low = _integer("batch[0]", self.batch[0], 1, MAX_BATCH)
        _integer("batch[1]", self.batch[1], low, MAX_BATCH)
        object.__setattr__(self, "batch", tuple(self.batch))

    @classmethod
    def of_shape(cls, layout: Layout, shape: Sequence[int], dtype: str = "float32") -> Interface:
        """Return the interface of a tensor with this full shape, batch first.

        Raises:
            InterfaceError: the rank is not the layout's, or a size is out of its domain.
        """
        layout = _layout(layout)
        rank = layout.trailing_rank + 2
        if len(shape) != rank:
            raise InterfaceError("shape", f"rank {len(shape)} does not fit {layout.value}", f"rank {rank}, batch first")
        sizes = [int(size) for size in shape]
        if layout.features_last:
            return cls(layout, sizes[-1], tuple(sizes[1:-1]), dtype)
        return cls(layout, sizes[1], tuple(sizes[2:]), dtype)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Interface:
        """Read what `to_dict` wrote.

        Raises:
            InterfaceError: a field is unknown, missing or wrong.
        """
        if not isinstance(data, Mapping):
            raise InterfaceError("interface", f"{describe(data)} is not an object", ", ".join(_FIELDS))
        for name in data:
            if name not in _FIELDS:
                raise InterfaceError(f"interface.{name}", "unknown field", ", ".join(_FIELDS))
        for name in ("layout", "width"):
            if name not in data:
                raise InterfaceError(f"interface.{name}", "missing")
        return cls(**dict(data))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data with every field."""
        return {
            "layout": self.layout.value,
            "width": self.width,
            "trailing": list(self.trailing),
            "dtype": self.dtype,
            "batch": list(self.batch),
        }

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON form: equal interfaces have equal digests."""
        return canonical.digest(self.to_dict())

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        return self.layout.sample_shape(self.width, self.trailing)

    def shape(self, batch: int) -> tuple[int, ...]:
        """Return the full shape of a tensor with this many samples."""
        return (batch, *self.sample_shape)

    @property
    def feature_dim(self) -> int:
        """Index of the feature dimension in a batched tensor."""
        return 2 if self.layout.features_last else 1

    @property
    def positions(self) -> int:
        """Positions in one sample: 1, T, L or H·W."""
        return math.prod(self.trailing)


_FIELDS = ("layout", "width", "trailing", "dtype", "batch")


def _layout(value: object) -> Layout:
    if isinstance(value, str):
        for layout in Layout:
            if layout.value == value:
                return layout
    raise InterfaceError("layout", f"{describe(value)} is not a layout", ", ".join(layout.value for layout in Layout))
