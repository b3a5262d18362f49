"""Catching the signals that ask a process to end, for a while, and giving them back to whoever had them."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self


class Caught:
    """While active, SIGINT and SIGTERM go to ``caught``. Only a process's main thread can catch signals.

    Attributes:
        by: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def caught(self, number: int, frame: FrameType | None) -> None:
        """A signal came."""
        self.by = signal.Signals(number)

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self.caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old.clear()
