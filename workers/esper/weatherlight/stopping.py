"""Ctrl-C and SIGTERM, turned into a question the trainer asks between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Protocol, Self

from esper.signals import Caught


class StopAsked(Protocol):
    """Asked between two steps whether to stop; ``by`` is the signal that said so."""

    by: signal.Signals | None

    def __call__(self) -> bool:
        """Whether to stop."""


class StopRequest(Caught):
    """While active, the first signal asks the run to stop after a checkpoint; a second Ctrl-C interrupts at once.

    Outside a process's main thread this only ever says "go on".
    """

    def __call__(self) -> bool:
        """True once a signal came."""
        return self.by is not None

    def __enter__(self) -> Self:
        return super().__enter__() if threading.current_thread() is threading.main_thread() else self

    def caught(self, number: int, frame: FrameType | None) -> None:
        """See ``Caught``."""
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        super().caught(number, frame)
