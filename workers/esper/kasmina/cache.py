"""Kernels this process holds: bounded by bytes and by count, least recently used out first, never one that was
evicted for good.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.errors import RunFailed

if TYPE_CHECKING:
    from esper.kernel import Kernel


class Evicted(RunFailed):
    """The artifact failed at run time in this run and is not used again."""


@dataclass(frozen=True)
class Entry:
    """A verified, loaded and warmed-up kernel; seeds get copies of it. ``size`` in bytes."""

    kernel: Kernel
    size: int
    risk: float
    latency_us: float
    gradient_norm: float


class KernelCache:
    """LRU cache of loaded kernels with single flight: however many ask for an artifact at once, it is loaded once.

    Args:
        max_bytes: bound on the sum of sizes. A kernel larger than this is handed out but not kept.
        max_count: bound on the number of kernels.
    """

    def __init__(self, max_bytes: int, max_count: int) -> None:
        self.max_bytes, self.max_count = max_bytes, max_count
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._flights: dict[str, Future[Entry]] = {}
        self._banned: dict[str, str] = {}
        self.hits = self.misses = self.evictions = 0

    def get(self, artifact_id: str, load: Callable[[], Entry]) -> Entry:
        """The cached kernel, or the one ``load`` returns (called by one thread only; the others wait for it).

        Raises:
            Evicted: the artifact was evicted for good.
            Exception: whatever ``load`` raised, for every thread that waited; nothing is kept then.
        """
        with self._lock:
            self._refuse(artifact_id)
            if artifact_id in self._entries:
                self.hits += 1
                self._entries.move_to_end(artifact_id)
                return self._entries[artifact_id]
            flight = self._flights.get(artifact_id)
            mine = flight is None
            if flight is None:
                self.misses += 1
                flight = self._flights[artifact_id] = Future()
        if mine:
            self._fly(artifact_id, flight, load)
        return flight.result()

    def _fly(self, artifact_id: str, flight: Future[Entry], load: Callable[[], Entry]) -> None:
        try:
            entry = load()
            with self._lock:
                del self._flights[artifact_id]
                self._refuse(artifact_id)
                if entry.size <= self.max_bytes:
                    self._entries[artifact_id] = entry
                    self._shrink()
            flight.set_result(entry)
        except BaseException as error:  # noqa: BLE001  whoever waits for this load must be told
            with self._lock:
                self._flights.pop(artifact_id, None)
            flight.set_exception(error)

    def _shrink(self) -> None:
        while len(self._entries) > self.max_count or self.bytes > self.max_bytes:
            self._entries.popitem(last=False)
            self.evictions += 1

    def _refuse(self, artifact_id: str) -> None:
        if artifact_id in self._banned:
            raise Evicted(f"kernel {artifact_id} was evicted for good: {self._banned[artifact_id]}")

    @property
    def bytes(self) -> int:
        """Sum of the sizes of what is held."""
        return sum(entry.size for entry in self._entries.values())

    @property
    def banned(self) -> dict[str, str]:
        """Artifacts evicted for good, with the reason."""
        return dict(self._banned)

    def __contains__(self, artifact_id: object) -> bool:
        return artifact_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def ban(self, artifact_id: str, reason: str) -> None:
        """Evict for good: every later request raises :class:`Evicted`."""
        with self._lock:
            self._entries.pop(artifact_id, None)
            self._banned.setdefault(artifact_id, reason)
