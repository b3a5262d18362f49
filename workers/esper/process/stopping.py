"""SIGTERM and SIGINT of a process without a person in front of it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Stopping:
    """While active, the first signal asks to finish what is in hand and leave; the second leaves at once.

    Signals can only be caught in a process's main thread. ``event`` is set when to stop, by a signal or by ``stop``.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.by: signal.Signals | None = None
        self._old: dict[signal.Signals, object] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.event.is_set()

    def stop(self) -> None:
        """Stop without a signal, for whoever finds that there is nothing left to do."""
        self.event.set()

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._old.clear()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.by is not None:
            # No cleaning up: what is open goes back to the queue, and helper processes end with this one.
            os._exit(128 + number)
        self.by = signal.Signals(number)
        self.event.set()
