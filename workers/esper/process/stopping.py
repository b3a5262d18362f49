"""SIGTERM and SIGINT of a process without a person in front of it."""

from __future__ import annotations

import os
import threading
from types import FrameType

from esper.signals import Caught


class Stopping(Caught):
    """While active, the first signal asks to finish what is in hand and leave; the second leaves at once.

    ``event`` is set when to stop, by a signal or by ``stop``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.event.is_set()

    def stop(self) -> None:
        """Stop without a signal, for whoever finds that there is nothing left to do."""
        self.event.set()

    def caught(self, number: int, frame: FrameType | None) -> None:
        """See ``Caught``."""
        if self.by is not None:
            # No cleaning up: what is open goes back to the queue, and helper processes end with this one.
            os._exit(128 + number)
        super().caught(number, frame)
        self.event.set()
