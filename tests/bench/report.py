"""What a benchmark hands over: rows that stand beside a promise, and the numbers they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.analysis import Estimate

BELOW, ABOVE, EXACT = "<=", ">=", "=="


@dataclass(frozen=True)
class Row:
    """One promise and what was measured.

    Attributes:
        promise: what is promised, in words.
        goal: the bound in words; empty for a figure that is reported without a promise.
        value, low, high, n: estimate and interval; ``low`` and ``high`` are None where there is none.
        unit: of value, low and high.
        holds: whether the value keeps the bound; None where nothing was promised.
        note: what a reader must know to judge the figure.
    """

    promise: str
    goal: str
    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    holds: bool | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass
class Report:
    """All of one benchmark: rows for the table, details for who wants to check them."""

    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"rows": [row.to_dict() for row in self.rows], "details": _plain(self.details)}


def bounded(
    promise: str, goal: str, estimate: Estimate, unit: str, relation: str, bound: float, note: str = ""
) -> Row:  # fmt: skip
    """A row whose value must keep a bound."""
    keeps = {BELOW: estimate.value <= bound, ABOVE: estimate.value >= bound, EXACT: estimate.value == bound}[relation]
    return Row(promise, goal, estimate.value, unit, estimate.n, estimate.low, estimate.high, keeps, note)


def reported(promise: str, estimate: Estimate, unit: str, note: str = "") -> Row:
    """A row without a bound."""
    return Row(promise, "", estimate.value, unit, estimate.n, estimate.low, estimate.high, None, note)


def number(value: float | None) -> str:
    """A number for people: three significant digits, thousands kept whole."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def verdict(row: dict[str, Any]) -> str:
    """The last column."""
    return {True: "holds", False: "DOES NOT HOLD", None: "(no promise)"}[row["holds"]]


def measured(row: dict[str, Any]) -> str:
    """Value, unit, interval and n in one cell."""
    low, high = row["low"], row["high"]
    interval = f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{number(row['value'])}{unit}{interval}, n={row['n']}"


def text_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for a terminal."""
    header = ("promise", "goal", "measured (95 % interval)", "")
    cells = [header, *((r["promise"], r["goal"] or "–", measured(r), verdict(r)) for r in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(3)]
    lines = ["  ".join([*(line[i].ljust(widths[i]) for i in range(3)), line[3]]).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in [*widths, 13]))
    return "\n".join(lines)


def machine(answer: dict[str, Any]) -> str:
    """Where and when a benchmark ran, in one line."""
    load = f"load {answer['load_before']:.2g} before and {answer['load_after']:.2g} after"
    return (
        f"{answer['date']} UTC on {answer['cores']} cores of {answer['processor']} ({answer['hardware']}), {load}; "
        f"Python {answer['python']}, PyTorch {answer['torch']}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
