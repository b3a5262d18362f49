"""The live page of a run on a terminal: progress, curves, seeds, budget, the latest messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esper.output.plain import plain

_BARS = "▁▂▃▄▅▆▇█"
_POINTS = 48  # a sparkline of more points than this would not fit beside its label in 80 columns
_MESSAGES = 4
_SEEDS = 8

STAGE_STYLES = {
    "GERMINATED": "bright_black",
    "LOADING": "bright_black",
    "TRAINING": "cyan",
    "GRAFTING": "blue",
    "STABILIZATION": "magenta",
    "EVALUATING": "yellow",
    "FINE_TUNING": "bright_green",
    "FOSSILIZED": "green",
    "CULLED": "red",
    "CANCELLED": "bright_black",
    "ERROR_RECOVERY": "bright_red",
    "ROLLED_BACK": "bright_red",
}


class Live:
    """Redraws one page in place; the calls are those of :class:`esper.output.ui.Progress`."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = "starting"
        self._phase_began = clock()
        self._kernels = (0, 0, "")
        self._stats: dict[str, Any] = {}
        self._epochs_seen = 0
        self._epochs_began = clock()
        self._train: deque[float] = deque(maxlen=_POINTS)
        self._controller: deque[float] = deque(maxlen=_POINTS)
        self._metric: deque[float] = deque(maxlen=_POINTS)
        self._seeds: dict[str, tuple[str, str, str]] = {}
        self._messages: deque[Text] = deque(maxlen=_MESSAGES)
        self.console = Console(file=stream, highlight=False)
        self._live = RichLive(get_renderable=self.page, console=self.console, refresh_per_second=4)
        self._live.start()

    def phase(self, text: str) -> None:
        """Show the phase with its own clock."""
        self._phase, self._phase_began = text, self._clock()

    def kernel(self, done: int, total: int, text: str) -> None:
        """Move the kernel bar."""
        self._kernels = (done, total, text)

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """Extend the curves and move the epoch bar."""
        if not self._epochs_seen:
            self._epochs_began = self._clock() - float(stats.get("seconds") or 0.0)
        self._epochs_seen += 1
        self._stats = plain(dict(stats))
        for field, curve in (
            ("train_loss", self._train),
            ("controller_loss", self._controller),
            ("controller_metric", self._metric),
        ):
            value = self._stats.get(field)
            if value is not None:
                curve.append(value)

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """Move the seed's row."""
        before = self._seeds.pop(seed, ("", "", ""))
        if target != "DORMANT":
            self._seeds[seed] = (str(details.get("blueprint") or before[0]), target, reason)
        while len(self._seeds) > _SEEDS:
            self._seeds.pop(next(iter(self._seeds)))

    def message(self, text: str, level: str = "info") -> None:
        """Show the text among the latest."""
        style = {"warning": "yellow", "error": "bold red"}.get(level, "")
        self._messages.append(Text(text, style=style, overflow="ellipsis", no_wrap=True))

    def close(self) -> None:
        """Leave the last page on the screen."""
        self._live.stop()

    # -- drawing -------------------------------------------------------------------------------------------------

    def page(self) -> Group:
        """The page as it is now."""
        parts: list[Any] = [self._heading()]
        done, total, text = self._kernels
        if total and (done < total or not self._stats):
            parts.append(
                self._row("kernels", ProgressBar(total=total, completed=done, width=30), f"{done}/{total} {text}")
            )
        if self._stats:
            parts.extend(self._training())
        if self._seeds:
            parts.append(self._seed_table())
        if self._messages:
            parts.append(
                Panel(Group(*self._messages), title="messages", title_align="left", border_style="bright_black")
            )
        return Group(*parts)

    def _heading(self) -> Text:
        return Text.assemble(
            (self._phase, "bold"), (f"  {_clock_text(self._clock() - self._phase_began)}", "bright_black")
        )

    def _training(self) -> list[Any]:
        stats = self._stats
        epoch, epochs = int(stats.get("epoch") or 0), int(stats.get("epochs") or 0)
        rate = (self._clock() - self._epochs_began) / max(self._epochs_seen, 1)
        left = f"{_clock_text(rate * max(epochs - epoch, 0))} left" if epochs else ""
        rows = [
            self._row(
                "epoch", ProgressBar(total=epochs or None, completed=epoch, width=30), f"{epoch}/{epochs}  {left}"
            )
        ]
        for label, curve in (("train", self._train), ("controller", self._controller), ("metric", self._metric)):
            if curve:
                rows.append(self._row(label, Text(sparkline(curve), style="cyan"), f"{curve[-1]:.4f}"))
        budget = stats.get("budget")
        spent = sum(value for value in (stats.get("flops") or {}).values() if value)
        if budget:
            share = f"{spent:.3g} of {budget:.3g} FLOPs"
            rows.append(self._row("budget", ProgressBar(total=budget, completed=min(spent, budget), width=30), share))
        elif spent:
            rows.append(self._row("spent", Text(""), f"{spent:.3g} FLOPs"))
        rows.append(self._row("size", Text(""), f"{int(stats.get('parameters') or 0):,} parameters"))
        return rows

    def _seed_table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bright_black", expand=False)
        for name in ("seed", "blueprint", "stage", "why"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for seed, (blueprint, stage, reason) in self._seeds.items():
            table.add_row(Text(seed), Text(blueprint), Text(stage, style=STAGE_STYLES.get(stage, "")), Text(reason))
        return table

    @staticmethod
    def _row(label: str, bar: Any, text: str) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=11, style="bright_black")
        grid.add_column(width=_POINTS if isinstance(bar, Text) and bar.plain else 30)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        grid.add_row(label, bar, Text(text))
        return grid


def sparkline(values: deque[float] | list[float]) -> str:
    """Draw ``values`` (finite) as one line of eight-step bars, the lowest at the bottom."""
    if not values:
        return ""
    low, high = min(values), max(values)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] for value in values)


def _clock_text(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
