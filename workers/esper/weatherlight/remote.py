"""Kernels from the library's service, made by pools that this process asks over the bus.

Nothing here stops a run that trains: while the library or the bus is away there is nothing new, which is said once, and
what was asked for is found when they are back. Verdicts that are announced are only looked up sooner.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from google.protobuf.message import Message as Payload

from esper.errors import BusError, LibraryError
from esper.kernel.hardware import hardware_target
from esper.kernel.signing import PublicKeys
from esper.oona import Bus, BusFull, Message
from esper.urza import KernelRecord, Library, State
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.consuming import Consumer
from esper.weatherlight.dispatcher import FINAL, NOISY_TRIES
from esper.weatherlight.kernels import Kernels
from esper.weatherlight.patient import AWAY
from esper.weatherlight.post import Post, interface_to_wire, strategy_to_wire
from esper.weatherlight.supervisor import Status, Supervisor
from esper.weatherlight.wanted import Wanted
from leyline.topics import PREFETCH_ERROR, PREFETCH_READY
from leyline.v1 import kernels_pb2 as wire

_LOG = logging.getLogger(__name__)

ROLE = "weatherlight"
LEASE_SECONDS = 1800.0
"""For how long a kernel in use is held after the run was last heard of."""
TURN_SECONDS = 1.0
RETRY_SECONDS = 10.0
# A bus that is away comes back some day; the run does without until then.
_FOR_EVER = Backoff(first=0.5, longest=30.0, tries=1_000_000, healthy=60.0)


class RemoteKernels(Kernels):
    """See the module. A context manager.

    Args:
        library: the service's client.
        bus, post: how the pools are asked.
        keys: whose signatures on kernels are taken.
        run: name of the run; answers and leases go by it.
        cache: directory that fetched kernels are put in.
        device: what kernels are built for.
        tell: told what is away, and that it is back, in words, once each.
        recheck_seconds: how often the library is looked at while waiting.
        lease_seconds: for how long kernels in use are held at a time; renewed after a third of it.
    """

    def __init__(
        self,
        library: Library,
        bus: Bus,
        post: Post,
        keys: PublicKeys,
        run: str,
        cache: Path,
        *,
        device: str = "cpu",
        tell: Callable[[str], object] = _LOG.warning,
        recheck_seconds: float = 5.0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        super().__init__(library, keys, cache, device=device, recheck_seconds=recheck_seconds)
        self._bus, self._post, self._run, self._tell = bus, post, run, tell
        self._lease_seconds = lease_seconds
        self._renew_at = time.monotonic() + lease_seconds / 3
        self._lock = threading.Lock()
        self._unsent: deque[wire.KernelPrefetchRequest] = deque()
        self._noise: dict[str, int] = {}
        self._leased: set[str] = set()
        self._away: set[str] = set()
        self._supervisor = Supervisor(_FOR_EVER)
        self._started = False

    def away(self, error: LibraryError) -> None:
        """Somebody else who asks the library for this run has found that it is away."""
        self._missing("library", error)

    def arrivals(self) -> list[str]:
        """See ``Kernels.arrivals``; none while the library is away."""
        try:
            found = super().arrivals()
        except AWAY as error:
            self._missing("library", error)
            return []
        self._back("library")
        return found

    def path(self, artifact_id: str) -> Path:
        """See ``Kernels.path``; the artifact is held for this run until it is closed."""
        self._start()
        with self._lock:
            new = artifact_id not in self._leased
            self._leased.add(artifact_id)
        if new:
            self._lease([artifact_id])
        return super().path(artifact_id)

    def status(self) -> list[Status]:
        """How its threads are."""
        return self._supervisor.status()

    def close(self) -> None:
        """Give up what this run holds and no longer listen; both end by themselves where that can't be said now."""
        self._supervisor.close()
        if not self._started:
            return
        try:
            for topic in (PREFETCH_READY, PREFETCH_ERROR):
                self._bus.unsubscribe(topic, self._name)
        except BusError as error:
            _LOG.info("answers to %s: %s", self._run, error)
        try:
            if self._leased:
                self._library.release(self._run)
        except LibraryError as error:
            _LOG.info("leases of %s: %s", self._run, error)

    @property
    def _name(self) -> str:
        """Of its subscriptions: what theirs may hold of the run's name, and a digest, for two may look alike then."""
        plain = "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in self._run.lower())
        return f"run-{plain[:80]}-{hashlib.sha256(self._run.encode()).hexdigest()[:8]}"

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        for topic in (PREFETCH_READY, PREFETCH_ERROR):
            consumer = Consumer(self._bus, self._post, topic, self._name, self._on_answer, key=self._run)
            self._supervisor.start(topic, consumer.run)
        self._supervisor.start("kernels", self._look_after)

    def _submit(self, wanted: Sequence[Wanted]) -> None:
        self._start()
        for want in wanted:
            if self._library.record(want.artifact_id).state is State.NOISY:
                self._noise[want.artifact_id] = self._count_noise(want.artifact_id)
            request = wire.KernelPrefetchRequest(
                run=self._run,
                kernel_artifact_id=want.artifact_id,
                blueprint=want.blueprint,
                interface=interface_to_wire(want.interface),
                strategy=strategy_to_wire(want.strategy),
                hardware=hardware_target(self._device),
            )
            with self._lock:
                self._unsent.append(request)
        self._send()

    def _send(self) -> None:
        """Hand over what the bus has room for; the rest is tried again."""
        with self._lock:
            while self._unsent:
                request = self._unsent[0]
                try:
                    self._post.send(request, ROLE, request.kernel_artifact_id, run=self._run)
                except BusFull:
                    return
                self._unsent.popleft()

    def _on_answer(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if not isinstance(payload, wire.KernelArtifactReady | wire.KernelArtifactError):
            raise ValueError(f"{message.topic}: does not know {payload.DESCRIPTOR.full_name}")
        if isinstance(payload, wire.KernelArtifactError):
            _LOG.info("%s will not come: %s", payload.kernel_artifact_id, payload.cause)
        self._on_change(payload.kernel_artifact_id)

    def _look_after(self, stop: threading.Event) -> None:
        """Send what waits, and hold what is used."""
        while not stop.wait(TURN_SECONDS):
            self._send()
            if time.monotonic() >= self._renew_at:
                self._renew_at = time.monotonic() + self._lease_seconds / 3
                with self._lock:
                    held = sorted(self._leased)
                if held:
                    self._lease(held)

    def _lease(self, artifacts: Sequence[str]) -> None:
        try:
            self._library.lease(self._run, artifacts, self._lease_seconds)
            self._back("leases")
        except LibraryError as error:
            self._missing("leases", error)
            # Until then an earlier lease holds.
            self._renew_at = time.monotonic() + min(RETRY_SECONDS, self._lease_seconds / 3)

    def _look(self, artifact_id: str) -> KernelRecord | None:
        try:
            record = super()._look(artifact_id)
        except AWAY as error:
            self._missing("library", error)
            return None
        self._back("library")
        return record

    def _settled(self, record: KernelRecord) -> bool:
        if record.state is not State.NOISY:
            return record.state in FINAL
        count = self._count_noise(record.artifact_id)
        return count % NOISY_TRIES == 0 and count > self._noise.get(record.artifact_id, 0)

    def _count_noise(self, artifact_id: str) -> int:
        return sum(change.target is State.NOISY for change in self._library.history(artifact_id))

    def _unavailable(self, strategies: Sequence[str]) -> Mapping[str, str]:
        """What this machine could build is of no account: the pools build."""
        return {}

    def _missing(self, what: str, error: Exception) -> None:
        with self._lock:
            known = what in self._away
            self._away.add(what)
        if not known:
            self._tell(f"{what}: {error}; training goes on without new kernels")

    def _back(self, what: str) -> None:
        with self._lock:
            known = what in self._away
            self._away.discard(what)
        if known:
            self._tell(f"{what}: back")
