"""Numbers, lists and names as the page writes them: bounded, with units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from esper.output.report.charts import number

ROWS = 200  # rows of any table; the rest is in events.jsonl, and the page says so
TEXT = 400  # characters of any text


@dataclass(frozen=True)
class Rows:
    """A table: its rows and how many were left out."""

    rows: list[Any]
    hidden: int


def cut(text: Any, limit: int = TEXT) -> str:
    """Bound a text; what is cut off is marked."""
    whole = str(text)
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


def tail(text: Any, limit: int) -> str:
    """Bound a module path from the front: what tells one slot from another stands at its end."""
    whole = str(text)
    return whole if len(whole) <= limit else "…" + whole[1 - limit :]


def code(text: str) -> Markup:
    """Escape a sentence and set what stands in backquotes as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def bounded(rows: Sequence[Any], limit: int = ROWS) -> Rows:
    """The last ``limit`` rows: what came last explains the result."""
    return Rows(list(rows[-limit:]), max(0, len(rows) - limit))


def facts(numbers: Mapping[str, Any] | None) -> str:
    """Numbers as one line, such as "p 0.0012 · n 400"."""
    parts: list[str] = []
    for name, value in (numbers or {}).items():
        if isinstance(value, Mapping):
            parts.append(f"{name} {{{facts(value)}}}")
        elif isinstance(value, list | tuple):
            parts.append(f"{name} [{', '.join(_value(item) for item in value[:8])}]")
        else:
            parts.append(f"{name} {_value(value)}")
    return cut(" · ".join(parts))


def _value(value: Any) -> str:
    return number(value) if isinstance(value, int | float) or value is None else cut(value, 60)


def flops(value: float) -> str:
    """FLOPs with a unit: "24.5 GFLOPs"."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}FLOPs"
    return f"{value:.3g} FLOPs"


def duration(seconds: float) -> str:
    """Seconds for people: "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def as_float(value: Any) -> float | None:
    """``value`` as a float; None for anything that is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
