"""Threads that are started again when they fail, ever more slowly, and given up on loudly."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from esper.errors import RunFailed
from esper.weatherlight.backoff import Backoff

_LOG = logging.getLogger(__name__)

Work = Callable[[threading.Event], None]
"""What a supervised thread does until the event is set; returning earlier means that it has finished."""


class OrganFailed(RunFailed):
    """A supervised part failed too often in a row and was given up on."""


class Health(enum.StrEnum):
    """How a supervised thread is."""

    RUNNING = "running"
    WAITING = "waiting to restart"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """One supervised thread: how it is, how often it was started again, and what it last failed with."""

    name: str
    health: Health
    restarts: int
    last_error: str


class Supervisor:
    """Runs threads until ``close``; see ``Backoff`` for how a failing one is treated.

    ``clock`` gives monotonic seconds; ``pause`` waits for an event or a time, as ``Event.wait`` does. Both are injected
    by tests. The threads are daemons: they never keep a process alive.
    """

    def __init__(
        self,
        backoff: Backoff | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], object] | None = None,
    ) -> None:
        self._backoff = backoff or Backoff()
        self._clock = clock
        self._pause = pause or threading.Event.wait
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._status: dict[str, Status] = {}
        self._causes: dict[str, BaseException] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, work: Work) -> None:
        """Run ``work`` in a thread called ``name``; raises ``ValueError`` when there is one of that name."""
        with self._lock:
            if name in self._threads:
                raise ValueError(f"supervisor: there is a thread called {name!r} already")
            self._status[name] = Status(name, Health.RUNNING, 0, "")
            thread = threading.Thread(target=self._run, args=(name, work), name=f"esper-{name}", daemon=True)
            self._threads[name] = thread
        thread.start()

    def status(self) -> list[Status]:
        """Every thread, by name."""
        with self._lock:
            return [self._status[name] for name in sorted(self._status)]

    def check(self) -> None:
        """Raise ``OrganFailed`` with its cause when a thread was given up on."""
        with self._lock:
            failed = [status for status in self._status.values() if status.health is Health.FAILED]
            if not failed:
                return
            status = failed[0]
            cause = self._causes[status.name]
        raise OrganFailed(
            f"{status.name}: failed {self._backoff.tries} times in a row and was given up on; last: {status.last_error}"
        ) from cause

    def stop(self) -> None:
        """Ask every thread to end, without waiting."""
        self._stop.set()

    def close(self, timeout: float = 5.0) -> list[str]:
        """Ask every thread to end, wait up to ``timeout`` seconds in all, and return the names of the others."""
        self._stop.set()
        deadline = time.monotonic() + timeout
        for thread in list(self._threads.values()):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return sorted(name for name, thread in self._threads.items() if thread.is_alive())

    def _run(self, name: str, work: Work) -> None:
        failures = restarts = 0
        while not self._stop.is_set():
            began = self._clock()
            try:
                work(self._stop)
            except Exception as error:  # noqa: BLE001 - that nothing gets past it is what a supervisor is for
                if self._stop.is_set():
                    break  # it was being stopped: that something was taken away under it is no failure
                failures = 1 if self._clock() - began >= self._backoff.healthy else failures + 1
                wait = self._backoff.wait(failures)
                if wait is None:
                    self._give_up(name, restarts, error)
                    return
                _LOG.warning("%s failed (%s); starting it again in %.1f s", name, error, wait, exc_info=error)
                self._set(name, Health.WAITING, restarts, error)
                self._pause(self._stop, wait)
                restarts += 1
                if not self._stop.is_set():
                    self._set(name, Health.RUNNING, restarts, error)
            else:
                break
        self._set(name, Health.FINISHED, restarts, None)

    def _give_up(self, name: str, restarts: int, error: BaseException) -> None:
        _LOG.error(
            "%s failed %d times in a row and is given up on: %s", name, self._backoff.tries, error, exc_info=error
        )
        with self._lock:
            self._causes[name] = error
        self._set(name, Health.FAILED, restarts, error)

    def _set(self, name: str, health: Health, restarts: int, error: BaseException | None) -> None:
        with self._lock:
            last = self._status[name].last_error if error is None else f"{type(error).__name__}: {error}"
            self._status[name] = Status(name, health, restarts, last)
