"""How views look on a terminal, in a pipe and as data."""

from __future__ import annotations

import io
import json

import yaml
from rich.console import Console

from cluster_objects import NOW, ended, found, kernel, pod, run
from esper_operator.kubectl import views
from esper_operator.kubectl.reasons import why
from esper_operator.kubectl.showing import as_data, shown

View = views.Status | views.Table | views.Why


def printed(view: View, *, terminal: bool = False, ascii_only: bool = False, width: int = 160) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal, highlight=False).print(shown(view, ascii_only=ascii_only))
    return out.getvalue()


def test_the_tree_is_drawn_with_its_branches() -> None:
    lines = printed(views.run_status(found(kernels=(kernel("k1"),)), NOW)).splitlines()
    tree = [line.rstrip() for line in lines[next(n for n, line in enumerate(lines) if "● grow" in line) :]]
    assert [line[:22].rstrip() for line in tree] == [
        "● grow", "├─ ● seeds", "│  ├─ ● grafting", "│  │  └─ ● blocks.1/1", "│  ├─ ✔ fossilized",
        "│  │  └─ ✔ blocks.0/0", "│  └─ ○ culled", "│     └─ ○ blocks.1/0", "├─ ● kernels", "│  └─ ✔ k1",
        "└─ ● job/grow", "   ├─ ● grow-0-abcde", "   └─ ● grow-1-abcde",
    ]  # fmt: skip


def test_a_pipe_gets_no_escapes_and_a_terminal_colours() -> None:
    view = views.run_status(found(), NOW)
    assert "\x1b" not in printed(view)
    assert "\x1b[" in printed(view, terminal=True)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert printed(views.run_status(found(), NOW), ascii_only=True).isascii()


def test_nothing_a_cluster_says_moves_the_cursor_or_becomes_markup() -> None:
    hostile = "\x1b[2J[red]gone[/red]\r\nnext"
    broken = pod(0, "Failed", **ended(1, "Error", hostile))
    for view in (
        views.run_status(found(run=run(message=hostile), pods=(broken,)), NOW),
        why(found(run=run(message=hostile), pods=(broken,))),
        views.runs_table([run(reason=hostile)], NOW, namespaces=False),
    ):
        text = printed(view)
        assert "\x1b" not in text
        assert "\r" not in text
        assert "[red]gone[/red]" in text


def test_an_empty_table_says_so() -> None:
    assert printed(views.runs_table([], NOW, namespaces=False)).strip() == "no training runs"
    assert printed(views.seeds_table(found(run=run(seeds=None)))).strip() == "the status names no seeds"


def test_data_is_the_view_and_can_be_read_back() -> None:
    view = views.run_status(found(), NOW)
    values = json.loads(as_data(view, "json"))
    assert values["run"]["Phase"] == "Running"
    assert values["tree"]["children"][0]["name"] == "seeds"
    assert yaml.safe_load(as_data(view, "yaml")) == values
    rows = json.loads(as_data(views.seeds_table(found()), "json"))
    assert rows[0] == {
        "seed": "blocks.1/1", "stage": "GRAFTING", "blueprint": "mlp-gelu", "alpha": 0.4, "verdict": None,
    }  # fmt: skip
    assert json.loads(as_data(why(found()), "json"))["findings"][0]["from"] == "seed blocks.0/0"
