"""How views look: coloured with marks on a terminal, plain text elsewhere, JSON or YAML when asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from esper_operator.kubectl.views import BAD, BUSY, GOOD, OFF, WAITING, Node, Status, Table, Why
from esper_operator.kubectl.words import duration, plain

STYLES = {GOOD: "green", BAD: "red", BUSY: "cyan", WAITING: "yellow", OFF: "bright_black"}
MARKS = {GOOD: "✔", BAD: "✖", BUSY: "●", WAITING: "◷", OFF: "○"}
ASCII_MARKS = {GOOD: "+", BAD: "x", BUSY: "*", WAITING: ".", OFF: "-"}
BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
ASCII_BRANCHES = ("|- ", "`- ", "|  ", "   ")
WIDE = 240
"""Columns where there is no terminal: nothing is cut or wrapped for one that is not there."""


def console() -> Console:
    """Standard output."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDE)


def shown(view: Status | Table | Why, *, ascii_only: bool = False) -> RenderableType:
    """A view for the console."""
    match view:
        case Status():
            return Group(_header(view), Text(), _tree(view.tree, ascii_only), *_advice(view.advice))
        case Why():
            lines = [Text(plain(view.headline), style=STYLES[view.fares])]
            lines += [Text.assemble((f"  {plain(who)}  ", "bright_black"), plain(said)) for who, said in view.findings]
            return Group(*lines)
        case Table():
            return _rows(view)


def as_data(view: Status | Table | Why, form: str) -> str:
    """A view as ``json`` or ``yaml``."""
    values: Any = view.plain()
    if form == "json":
        return json.dumps(values, indent=2, ensure_ascii=False)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True)).rstrip("\n")


def _header(view: Status) -> Grid:
    made = _grid(2)
    for name, value in view.header:
        style = STYLES[view.fares] if name == "Phase" else ""
        made.add_row(Text(f"{name}:", style="bright_black"), Text(plain(value), style=style))
    return made


def _tree(root: Node, ascii_only: bool) -> Grid:
    made = _grid(4)
    for column, title in enumerate(("", "state", "duration", "note")):
        made.columns[column].header = Text(title, style="bright_black")
    made.show_header = True
    marks = ASCII_MARKS if ascii_only else MARKS
    for prefix, node in _lines(root, "", "", ASCII_BRANCHES if ascii_only else BRANCHES):
        style = STYLES[node.fares]
        made.add_row(
            Text.assemble((prefix, "bright_black"), (f"{marks[node.fares]} ", style), plain(node.name)),
            Text(plain(node.state), style=style), duration(node.seconds), Text(plain(node.note)),
        )  # fmt: skip
    return made


def _lines(node: Node, own: str, below: str, branches: tuple[str, str, str, str]) -> Iterator[tuple[str, Node]]:
    """Every node with what stands before it."""
    fork, last, through, empty = branches
    yield own, node
    for number, child in enumerate(node.children, 1):
        end = number == len(node.children)
        yield from _lines(child, below + (last if end else fork), below + (empty if end else through), branches)


def _advice(words: str) -> list[Text]:
    return [Text(), Text(plain(words), style="yellow")] if words else []


def _rows(view: Table) -> RenderableType:
    if not view.rows:
        return Text(view.empty, style="bright_black")
    made = _grid(len(view.columns))
    made.show_header = True
    for column, title in zip(made.columns, view.columns, strict=True):
        column.header = Text(title.upper(), style="bright_black")
    coloured = next((at for at, name in enumerate(view.columns) if name in ("phase", "stage")), None)
    for row, fares in zip(view.rows, view.fares, strict=True):
        made.add_row(*(
            Text("" if value is None else plain(value), style=STYLES[fares] if at == coloured else "")
            for at, value in enumerate(row)
        ))  # fmt: skip
    return made


def _grid(columns: int) -> Grid:
    made = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(columns):
        made.add_column(overflow="fold")
    return made
