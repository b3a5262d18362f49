"""A part of the soak: a thread of its own that goes on until it is told to stop."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Part(ABC):
    """A thread; what ends it before its time is a finding, not a silence.

    Attributes:
        problems: what was found wrong, in words.
    """

    def __init__(self, name: str) -> None:
        self.problems: list[str] = []
        self._name = name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name=name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is in hand, and end."""
        self._stop.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until ``_stop`` is set."""

    def _guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  told at the end; a thread that dies would hide it
            self.problems.append(f"{self._name} ended: {type(error).__name__}: {error}")
