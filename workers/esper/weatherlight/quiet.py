"""Who may work on a machine with few cores: builds together, or one benchmark alone.

A compiler beside it is all a benchmark would measure. Within one process threads take turns (``Quiet``); several
processes of one machine take turns by a folder they share (``SharedQuiet``).
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

TURN_SECONDS = 0.5


class Turns(Protocol):
    """See the module."""

    def build(self, stop: threading.Event) -> AbstractContextManager[bool]:
        """Yield whether the work may begin; ``False`` once ``stop`` is set."""
        ...

    def measure(self, stop: threading.Event) -> AbstractContextManager[bool]:
        """As ``build``, for work that wants the machine for itself."""
        ...


class Quiet:
    """Lets builds run together, but a benchmark alone, and before builds that have not begun.

    ``enabled=False`` lets all pass.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._changed = threading.Condition()
        self._building = 0
        self._measuring = False
        self._waiting = 0

    @contextmanager
    def build(self, stop: threading.Event) -> Iterator[bool]:
        """See ``Turns``."""
        with self._changed:
            while self._enabled and (self._measuring or self._waiting) and not stop.is_set():
                self._changed.wait(TURN_SECONDS)
            self._building += 1
        try:
            yield not stop.is_set()
        finally:
            with self._changed:
                self._building -= 1
                self._changed.notify_all()

    @contextmanager
    def measure(self, stop: threading.Event) -> Iterator[bool]:
        """See ``Turns``."""
        with self._changed:
            self._waiting += 1
            while self._enabled and (self._measuring or self._building) and not stop.is_set():
                self._changed.wait(TURN_SECONDS)
            self._waiting -= 1
            self._measuring = True
        try:
            yield not stop.is_set()
        finally:
            with self._changed:
                self._measuring = False
                self._changed.notify_all()


class SharedQuiet:
    """The same for processes that share ``folder``; what a process holds ends with it, however that ends."""

    def __init__(self, folder: Path) -> None:
        self._next, self._work = folder / "next.lock", folder / "work.lock"
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def build(self, stop: threading.Event) -> Iterator[bool]:
        """See ``Turns``."""
        with ExitStack() as held:
            # Whoever waits to measure stands in the door: no build begins before it.
            with ExitStack() as door:
                go = _take(self._next, fcntl.LOCK_EX, stop, door) and _take(self._work, fcntl.LOCK_SH, stop, held)
            yield go

    @contextmanager
    def measure(self, stop: threading.Event) -> Iterator[bool]:
        """See ``Turns``."""
        with ExitStack() as held:
            with ExitStack() as door:
                go = _take(self._next, fcntl.LOCK_EX, stop, door) and _take(self._work, fcntl.LOCK_EX, stop, held)
            yield go


def _take(path: Path, kind: int, stop: threading.Event, held: ExitStack) -> bool:
    """Lock a file until ``held`` ends; ``False`` once ``stop`` is set."""
    file = held.enter_context(path.open("w"))
    while not stop.is_set():
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            stop.wait(TURN_SECONDS)
    return False
