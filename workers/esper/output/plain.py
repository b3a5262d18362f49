"""Python values to what JSON can hold."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Make ``value`` what JSON can hold: enums by name, numbers finite or null, sets sorted.

    Raises:
        TypeError: it holds something that has no plain form.
    """
    if isinstance(value, enum.Enum) and not isinstance(value, str):
        return value.name
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value if value is None or isinstance(value, bool) else int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    item = getattr(value, "item", None)  # 0-dim tensors and numpy scalars
    if callable(item):
        return plain(item())
    raise TypeError(f"{type(value).__name__} has no plain form; pass numbers, texts, lists or mappings")
