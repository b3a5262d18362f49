"""Ctrl-C and SIGTERM, turned into a question the trainer asks between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Protocol, Self


class StopAsked(Protocol):
    """Asked between two steps whether to stop; ``by`` is the signal that said so."""

    by: signal.Signals | None

    def __call__(self) -> bool:
        """Whether to stop."""


class StopRequest:
    """While active, the first signal asks the run to stop after a checkpoint; a second Ctrl-C interrupts at once.

    Signals can only be caught in a process's main thread; elsewhere this only ever says "go on".

    Attributes:
        by: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """True once a signal came."""
        return self.by is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old.clear()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)
