"""What a user sees while a run works: a live page on a terminal, plain lines in a log, JSON lines for a program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

from esper.output.plain import plain

Style = Literal["auto", "live", "plain", "json"]


@runtime_checkable
class Progress(Protocol):
    """What the trainer tells the user. No call may fail or change what the run computes."""

    def phase(self, text: str) -> None:
        """A new part of the work begins, such as "preparing kernels" or "training"."""

    def kernel(self, done: int, total: int, text: str) -> None:
        """``done`` of ``total`` kernels have their verdict; ``text`` is the latest."""

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """An epoch ended: the ``epoch`` event plus ``epoch``, ``epochs`` and ``budget`` (FLOPs or None)."""

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """A seed changed its stage."""

    def message(self, text: str, level: str = "info") -> None:
        """Anything else worth a line; ``level`` is info, warning or error."""

    def close(self) -> None:
        """The work is over (also after an error)."""


class Silent:
    """Says nothing: for tests and notebooks."""

    def phase(self, text: str) -> None:
        """Say nothing."""

    def kernel(self, done: int, total: int, text: str) -> None:
        """Say nothing."""

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """Say nothing."""

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """Say nothing."""

    def message(self, text: str, level: str = "info") -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Plain:
    """One line an event, without colour or cursor movement: what a log file or a pod's log wants."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._start = clock()

    def phase(self, text: str) -> None:
        """Write the phase as a heading."""
        self._line(f"== {text}")

    def kernel(self, done: int, total: int, text: str) -> None:
        """Write how many kernels are done."""
        self._line(f"kernel {done}/{total} {text}")

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """Write the epoch's numbers in a fixed order."""
        parts = [f"epoch {stats.get('epoch')}/{stats.get('epochs', '?')}"]
        for label, field, form in _PLAIN_FIELDS:
            value = plain(stats.get(field))
            parts.append(f"{label} {'–' if value is None else format(value, form)}")
        stages = {name: count for name, count in stats.get("seeds_by_stage", {}).items() if count}
        if stages:
            parts.append("seeds " + " ".join(f"{name.lower()}={count}" for name, count in stages.items()))
        self._line("  ".join(parts))

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """Write the transition and its reason."""
        blueprint = f" [{details['blueprint']}]" if details.get("blueprint") else ""
        self._line(f"seed {seed}{blueprint} {source} -> {target}: {reason}")

    def message(self, text: str, level: str = "info") -> None:
        """Write the text, marked when it is a warning or an error."""
        self._line(text if level == "info" else f"{level}: {text}")

    def close(self) -> None:
        """Flush what is buffered."""
        self._stream.flush()

    def _line(self, text: str) -> None:
        minutes, seconds = divmod(int(self._clock() - self._start), 60)
        # Names and reasons come from manifests and task code: a control character must not reach the terminal.
        safe = "".join(mark if mark.isprintable() else " " for mark in text)
        self._stream.write(f"[{minutes:02d}:{seconds:02d}] {safe}\n")
        self._stream.flush()


_PLAIN_FIELDS = (
    ("train", "train_loss", ".4f"),
    ("controller", "controller_loss", ".4f"),
    ("metric", "controller_metric", ".4f"),
    ("lr", "learning_rate", ".2e"),
    ("params", "parameters", ",d"),
    ("s", "seconds", ".1f"),
)


class JsonLines:
    """One JSON object a line: ``{"kind": …, …}``, for a program that follows the run."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def phase(self, text: str) -> None:
        """Write ``{"kind": "phase", "text": …}``."""
        self._write("phase", text=text)

    def kernel(self, done: int, total: int, text: str) -> None:
        """Write ``{"kind": "kernel", "done": …, "total": …, "text": …}``."""
        self._write("kernel", done=done, total=total, text=text)

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """Write ``{"kind": "epoch", …}`` with every field of ``stats``."""
        self._write("epoch", **dict(stats))

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """Write ``{"kind": "seed", "seed": …, "source": …, "target": …, "reason": …, …}``."""
        self._write("seed", **{**details, "seed": seed, "source": source, "target": target, "reason": reason})

    def message(self, text: str, level: str = "info") -> None:
        """Write ``{"kind": "message", "level": …, "text": …}``."""
        self._write("message", level=level, text=text)

    def close(self) -> None:
        """Flush what is buffered."""
        self._stream.flush()

    def _write(self, kind: str, **fields: Any) -> None:
        fields.pop("kind", None)
        self._stream.write(json.dumps({"kind": kind, **plain(fields)}, allow_nan=False) + "\n")
        self._stream.flush()


def choose(style: Style = "auto", stream: TextIO | None = None) -> Progress:
    """Pick the implementation; ``auto`` is the live page on a terminal and plain lines everywhere else."""
    stream = stream or sys.stdout
    if style == "json":
        return JsonLines(stream)
    if style == "plain" or (style == "auto" and not stream.isatty()):
        return Plain(stream)
    from esper.output.live import Live  # rich is only loaded for a terminal

    return Live(stream)
