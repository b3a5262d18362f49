"""Tables for the terminal: names are printed as they are, never as markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "VALIDATED": "green",
    "Validated": "green",
    "FOSSILIZED": "green",
    "Completed": "green",
    "REJECTED": "red",
    "Rejected": "red",
    "CULLED": "red",
    "ROLLED_BACK": "red",
    "Failed": "red",
    "NOISY": "yellow",
    "Interrupted": "yellow",
    "Suspended": "yellow",
    "Unfinished": "yellow",
}


def console() -> Console:
    """The terminal; piped output gets the width it needs instead of 80 columns."""
    out = Console(highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, width=200)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """A table; columns named in ``right`` are aligned to the right, known states are coloured."""
    made = Table(
        title=Text(title, style="bold"), title_justify="left", box=None, header_style="bright_black", pad_edge=False
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def cell(value: Any) -> Text:
    """A value as text without control characters."""
    shown = "" if value is None else str(value)
    return Text("".join(mark if mark.isprintable() else " " for mark in shown), style=STYLES.get(shown, ""))
