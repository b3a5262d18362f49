"""Resources to look at again: each is worked on by one worker at a time, and once for any number of events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from esper_operator import metrics

K = TypeVar("K")
FIRST_DELAY, LONGEST_DELAY = 0.5, 300.0

log = logging.getLogger(__name__)


class Again(Exception):
    """Look at this resource again later, ever less often; the message says why."""


class WorkQueue(Generic[K]):
    """Keys waiting for ``work``, which returns after how many seconds it wants to see the key again, if at all.

    A key that fails comes back by itself, later each time, up to every ``LONGEST_DELAY`` seconds.
    """

    def __init__(self, work: Callable[[K], Awaitable[float | None]]) -> None:
        self._work = work
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._dirty: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Look at this key soon."""
        if key in self._busy:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)
            metrics.QUEUED.set(len(self._waiting))

    def add_within(self, key: K, seconds: float) -> None:
        """Look at this key in so many seconds, or when it was to be looked at before that."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(max(seconds, 0.0), self._due, key)

    def forget(self, key: K) -> None:
        """The resource is gone: nothing is remembered about it."""
        self._failures.pop(key, None)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    async def serve(self, workers: int) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                after = await self._attempt(key)
            finally:
                self._busy.discard(key)
            if key in self._dirty:
                self._dirty.discard(key)
                self.add(key)
            if after is not None:
                self.add_within(key, after)  # news that came meanwhile may want it sooner

    async def _attempt(self, key: K) -> float | None:
        try:
            with metrics.RECONCILE_SECONDS.time():
                after = await self._work(key)
        except Again as reason:
            log.info("%s: %s", key, reason)
        except Exception as error:
            metrics.FAILURES.inc()
            log.warning("%s: %s: %s", key, type(error).__name__, error, exc_info=_unexpected(error))
        else:
            self._failures.pop(key, None)
            return after
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return min(FIRST_DELAY * 2.0 ** min(failures - 1, 20), LONGEST_DELAY)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)


def _unexpected(error: Exception) -> bool:
    """Whether the traceback helps: not for a cluster that did not answer."""
    import aiohttp
    from kubernetes.aio.dynamic.exceptions import DynamicApiError

    return not isinstance(error, aiohttp.ClientError | TimeoutError | OSError | DynamicApiError)
