"""A library that may be away: waited for, behind a breaker, and no longer than it is worth.

One that no longer knows this process is waited for too: its token has run out and is being renewed, or the issuer's
keys are. Whether the token has the role was found out at the start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from esper.oona import CircuitBreaker, CircuitOpen
from esper.urza import AccessDenied, Library, LibraryUnavailable

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

AWAY = (LibraryUnavailable, AccessDenied)
"""Errors that say something about the library, or about this process, rather than about what was asked."""
PATIENCE_SECONDS = 120.0
"""How long a library that can't be reached is waited for before whoever needs it fails."""


class PatientLibrary:
    """Asks a library, and again while it can't be reached. Thread-safe.

    ``seconds`` bounds one wait; infinite for who has nothing better to do.
    """

    def __init__(self, library: Library, seconds: float = PATIENCE_SECONDS) -> None:
        self.library, self._seconds = library, seconds
        self.breaker = CircuitBreaker("library", counts=AWAY)

    def ask(self, question: Callable[[Library], T], stop: threading.Event) -> T:
        """The answer; raises one of ``AWAY`` after too long a wait, or once ``stop`` is set."""
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return self.breaker.call(lambda: question(self.library))
            except (*AWAY, CircuitOpen) as error:
                wait = max(0.1, self.breaker.retry_in)
                if stop.is_set() or time.monotonic() + wait >= deadline:
                    if isinstance(error, CircuitOpen):
                        raise LibraryUnavailable(str(error)) from error
                    raise
                _LOG.warning("%s; trying again in %.1f s", error, wait)
                stop.wait(wait)
