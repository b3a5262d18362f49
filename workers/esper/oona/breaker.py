"""A circuit breaker: stop calling what keeps failing, and find out with one call whether it is back.

Closed: calls go through; ``failures`` in a row open it. Open: calls are refused at once for ``cooldown`` seconds.
Half-open: one call at a time is let through; ``successes`` good ones close it, a bad one opens it again with the
cool-down doubled up to ``longest_cooldown``.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from esper.errors import BusError

T = TypeVar("T")


class BreakerState(enum.StrEnum):
    """Whether calls go through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitOpen(BusError):
    """The call was not made: what it would reach has failed too often; ``retry_in`` seconds are left."""

    def __init__(self, name: str, retry_in: float, cause: str) -> None:
        self.retry_in = retry_in
        super().__init__(f"{name}: not tried, it failed too often (last: {cause}); next try in {retry_in:.1f} s")


class CircuitBreaker:
    """Guards one dependency. Thread-safe; ``clock`` gives monotonic seconds and is injected by tests.

    ``counts`` says which exceptions are the dependency's failures; any other passes through and changes nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        cooldown: float = 1.0,
        longest_cooldown: float = 30.0,
        successes: int = 1,
        counts: type[Exception] | tuple[type[Exception], ...] = Exception,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if failures < 1 or successes < 1:
            raise ValueError(f"breaker {name!r}: failures and successes must be at least 1")
        if not 0 < cooldown <= longest_cooldown:
            raise ValueError(f"breaker {name!r}: cooldown must be above 0 and at most longest_cooldown")
        self.name = name
        self._limit, self._needed = failures, successes
        self._first_cooldown, self._longest = cooldown, longest_cooldown
        self._counts, self._clock = counts, clock
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._failed = 0
        self._succeeded = 0
        self._cooldown = cooldown
        self._opened_at = 0.0
        self._probing = False
        self._cause = ""

    @property
    def state(self) -> BreakerState:
        """The state a call made now would meet."""
        with self._lock:
            return BreakerState.HALF_OPEN if self._due() else self._state

    @property
    def retry_in(self) -> float:
        """Seconds until a call may be tried; 0 when one may be tried now."""
        with self._lock:
            return self._remaining()

    def call(self, function: Callable[[], T]) -> T:
        """Return ``function()``; raises ``CircuitOpen`` without calling it while the circuit is open."""
        probe = self._admit()
        try:
            answer = function()
        except self._counts as error:
            self._failure(probe, f"{type(error).__name__}: {error}")
            raise
        except BaseException:
            # Not a failure of the dependency, and no proof of its health either: an interrupt must not leave the
            # probe taken for ever.
            self._release(probe)
            raise
        self._success(probe)
        return answer

    def _remaining(self) -> float:
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._cooldown - self._clock())

    def _due(self) -> bool:
        return self._state is BreakerState.OPEN and self._remaining() == 0.0

    def _admit(self) -> bool:
        """Let a call through, or raise; returns whether it is the probe of a half-open circuit."""
        with self._lock:
            if self._due():
                self._state, self._succeeded, self._probing = BreakerState.HALF_OPEN, 0, False
            if self._state is BreakerState.CLOSED:
                return False
            if self._state is BreakerState.OPEN or self._probing:
                raise CircuitOpen(self.name, self._remaining(), self._cause)
            self._probing = True
            return True

    def _release(self, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False

    def _success(self, probe: bool) -> None:
        with self._lock:
            if not probe:
                # A call that started before the circuit opened says nothing about now.
                if self._state is BreakerState.CLOSED:
                    self._failed = 0
                return
            self._probing = False
            self._succeeded += 1
            if self._succeeded >= self._needed:
                self._state, self._failed, self._cooldown = BreakerState.CLOSED, 0, self._first_cooldown

    def _failure(self, probe: bool, cause: str) -> None:
        with self._lock:
            if probe:
                self._probing = False
                self._cooldown = min(self._cooldown * 2, self._longest)
            elif self._state is not BreakerState.CLOSED:
                return
            else:
                self._failed += 1
                if self._failed < self._limit:
                    self._cause = cause
                    return
            self._cause, self._state, self._opened_at = cause, BreakerState.OPEN, self._clock()
