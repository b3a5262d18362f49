from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from esper.output import Progress, Silent, choose
from esper.output.live import Live, sparkline
from esper.output.ui import JsonLines, Plain

STATS: dict[str, Any] = {
    "epoch": 3, "epochs": 10, "train_loss": 0.5, "controller_loss": float("nan"), "controller_metric": 0.91,
    "learning_rate": 0.01, "parameters": 1002, "seconds": 1.25, "flops": {"host": 3e9}, "budget": 1e10,
    "seeds_by_stage": {"GRAFTING": 1, "CULLED": 0},
}  # fmt: skip


def tell(progress: Progress) -> None:
    progress.phase("preparing kernels")
    progress.kernel(1, 4, "conv fast VALIDATED")
    progress.phase("training")
    progress.epoch(STATS)
    progress.seed_event("a/0", "LOADING", "GRAFTING", "loaded\x1b[31m", blueprint="[bold]conv")
    progress.message("careful [/red]", "warning")
    progress.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("make", [Silent, lambda: Plain(io.StringIO()), lambda: JsonLines(io.StringIO())])
def test_each_implementation_takes_every_call(make: Callable[[], Progress]) -> None:
    progress = make()
    assert isinstance(progress, Progress)
    tell(progress)


def test_plain_lines_carry_the_numbers_and_no_control_characters() -> None:
    stream = io.StringIO()
    times = iter([0.0, 1.0, 1.0, 2.0, 63.0, 64.0, 65.0])
    tell(Plain(stream, clock=lambda: next(times)))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[00:01] == preparing kernels"
    assert lines[3] == (
        "[01:03] epoch 3/10  train 0.5000  controller –  metric 0.9100  lr 1.00e-02  "
        "params 1,002  s 1.2  seeds grafting=1"
    )
    assert lines[4] == "[01:04] seed a/0 [[bold]conv] LOADING -> GRAFTING: loaded [31m"
    assert lines[5] == "[01:05] warning: careful [/red]"


def test_json_lines_are_objects_with_a_kind() -> None:
    stream = io.StringIO()
    tell(JsonLines(stream))
    objects = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [item["kind"] for item in objects] == ["phase", "kernel", "phase", "epoch", "seed", "message"]
    assert objects[3]["controller_loss"] is None
    assert objects[4]["target"] == "GRAFTING"


def test_the_live_page_shows_progress_curves_seeds_budget_and_messages() -> None:
    stream = Terminal()
    live = Live(stream)
    tell(live)
    live.console.print(live.page())
    text = stream.getvalue()
    for words in (
        "training",
        "3/10",
        "a/0",
        "[bold]conv",
        "GRAFTING",
        "3e+09 of 1e+10 FLOPs",
        "1,002",
        "careful [/red]",
    ):
        assert words in text, words


def test_the_live_page_forgets_seeds_that_are_dormant_again_and_keeps_few() -> None:
    live = Live(Terminal())
    for number in range(20):
        live.seed_event(f"s{number}/0", "DORMANT", "GERMINATED", "because")
    live.seed_event("s19/0", "GERMINATED", "DORMANT", "reset")
    live.close()
    stream = io.StringIO()
    live.console.file = stream
    live.console.print(live.page())
    assert "s18/0" in stream.getvalue()
    assert "s19/0" not in stream.getvalue()
    assert "s1/0" not in stream.getvalue()


def test_the_style_follows_the_terminal_and_the_wish() -> None:
    assert isinstance(choose("auto", io.StringIO()), Plain)
    assert isinstance(choose("plain", Terminal()), Plain)
    assert isinstance(choose("json", Terminal()), JsonLines)
    live = choose("auto", Terminal())
    live.close()
    assert isinstance(live, Live)


@pytest.mark.parametrize(
    ("values", "line"), [([], ""), ([1.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 1.0], "▁█"), ([0.0, 3.5, 7.0], "▁▅█")]
)
def test_sparklines(values: list[float], line: str) -> None:
    assert sparkline(values) == line
