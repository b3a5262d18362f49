"""Urza's hand in the pipeline: enters what the workers say into the library, and sends artifacts on their way.

    KernelBuilt     → built, then to the benchmark queue (once its baseline is built too)
    KernelCertified → validated, with the signed report
    KernelRejected  → rejected, or noisy and queued again a few times
    dead letters    → rejected with their cause

It is one thread, so that an artifact's messages are never handled side by side. It repeats what it is told without
harm: the library's steps are compare-and-set.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message as Payload

from esper.errors import LibraryError
from esper.oona import Bus, CircuitBreaker, CircuitOpen, Message, Subscription
from esper.urza import BlobCorrupt, BlobMissing, InvalidEntry, Library, LibraryUnavailable, State
from esper.weatherlight.post import Post
from esper.weatherlight.workers import POLL_SECONDS, report_beside, send_patiently
from leyline.errors import LeylineError
from leyline.topics import BENCHMARK, CATALOG, COMPILE
from leyline.v1 import kernels_pb2 as wire

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

FINAL = frozenset({State.VALIDATED, State.REJECTED, State.RETIRED})
NOISY_TRIES = 3
"""Benchmarks of one artifact in one process before a restless machine is accepted as the answer."""
PATIENCE_SECONDS = 120.0
"""How long a library that can't be reached is waited for before the thread fails."""

_STATES = {
    State.PENDING_BUILD: wire.KERNEL_STATE_PENDING_BUILD,
    State.BUILT: wire.KERNEL_STATE_BUILT,
    State.PENDING_BENCHMARK: wire.KERNEL_STATE_PENDING_BENCHMARK,
    State.VALIDATED: wire.KERNEL_STATE_VALIDATED,
    State.REJECTED: wire.KERNEL_STATE_REJECTED,
    State.NOISY: wire.KERNEL_STATE_NOISY,
    State.RETIRED: wire.KERNEL_STATE_RETIRED,
}


class Librarian:
    """See the module.

    Args:
        workdir: where copies for benchmarking are put; this process's own.
        timeout: seconds a benchmark may take.
        changed: told every artifact whose state this one may have changed, after the library has it.
    """

    def __init__(
        self,
        library: Library,
        bus: Bus,
        post: Post,
        workdir: Path,
        timeout: float,
        changed: Callable[[str], None],
    ) -> None:
        self._library, self._bus, self._post = library, bus, post
        self._workdir, self._timeout, self._changed = workdir, timeout, changed
        self._breaker = CircuitBreaker("library", counts=LibraryUnavailable)
        self._lock = threading.Lock()
        self._baselines: dict[str, str] = {}
        self._waiting: dict[str, set[str]] = defaultdict(set)
        self._noisy: Counter[str] = Counter()
        self._buried: set[str] = set()

    def expect(self, artifact_id: str, baseline: str) -> None:
        """An artifact is on its way and is to be measured against ``baseline`` (empty: it is one)."""
        with self._lock:
            self._baselines[artifact_id] = baseline

    def gave_up(self, artifact_id: str) -> bool:
        """Whether this process has found the machine too restless for this artifact as often as it tries."""
        return self._noisy[artifact_id] >= NOISY_TRIES

    def run(self, stop: threading.Event) -> None:
        """What the supervised thread does until ``stop`` is set."""
        with self._bus.subscribe(CATALOG, "urza") as subscription:
            while not stop.is_set():
                message = subscription.receive(POLL_SECONDS)
                if message is not None:
                    self._take(subscription, message, stop)
                self._bury(stop)

    def send_on(self, artifact_id: str, stop: threading.Event) -> None:
        """Queue a built artifact for its benchmark, now or when its baseline is built; reject it when that can't be."""
        with self._lock:
            baseline = self._baselines.get(artifact_id, "")
            if baseline:
                state = self._library.record(baseline).state
                if state is State.PENDING_BUILD:
                    self._waiting[baseline].add(artifact_id)
                    return
                if state is State.REJECTED:
                    cause = self._library.record(baseline).cause
                    self._library.reject(
                        artifact_id, f"can't be measured: its baseline {baseline} was rejected: {cause}"
                    )
        if self._insist(lambda: self._library.begin_benchmark(artifact_id), stop) is State.PENDING_BENCHMARK:
            self._request(artifact_id, baseline, stop)
        self._tell(artifact_id, stop)

    def _request(self, artifact_id: str, baseline: str, stop: threading.Event) -> None:
        try:
            # The library's own copy, not the worker's: what gets signed is what everybody else will fetch.
            copy = self._insist(lambda: self._library.fetch(artifact_id, self._workdir / "benchmark"), stop)
            beside = self._workdir / "baseline"
            other = self._insist(lambda: self._library.fetch(baseline, beside), stop) if baseline else ""
        except (BlobMissing, BlobCorrupt) as error:
            self._library.reject(artifact_id, f"its files are lost: {error}")
            return
        request = wire.KernelBenchmarkRequest(
            kernel_artifact_id=artifact_id,
            manifest_sha256=hashlib.sha256((copy / "manifest.json").read_bytes()).hexdigest(),
            location=str(copy),
            baseline_artifact_id=baseline,
            baseline_location=str(other),
            timeout_seconds=max(1, round(self._timeout)),
        )
        send_patiently(lambda: self._post.send(request, "urza", artifact_id), stop)

    def _take(self, subscription: Subscription, message: Message, stop: threading.Event) -> None:
        try:
            payload, opened = self._post.open(message)
            self._handle(payload, stop)
        except LibraryUnavailable:
            raise  # not this message's fault: the thread fails, waits and gets it again
        except (LeylineError, LibraryError, OSError) as error:
            _LOG.warning("%s: %s", message.key, error)
            subscription.nack(message, f"{type(error).__name__}: {error}")
            return
        if not stop.is_set():
            subscription.ack(message)
            self._post.done(message, opened)

    def _handle(self, payload: Payload, stop: threading.Event) -> None:
        match payload:
            case wire.KernelBuilt():
                self._built(payload.kernel_artifact_id, Path(payload.location), stop)
            case wire.KernelCertified():
                self._certified(payload, stop)
            case wire.KernelRejected():
                self._rejected(payload, stop)

    def _built(self, artifact_id: str, location: Path, stop: threading.Event) -> None:
        state = self._insist(lambda: self._library.record(artifact_id), stop).state
        if state is State.PENDING_BUILD:
            state = self._insist(lambda: self._library.built(artifact_id, location), stop)
        if state not in FINAL:
            self.send_on(artifact_id, stop)
        self._release(artifact_id, stop)
        shutil.rmtree(location, ignore_errors=True)

    def _certified(self, payload: wire.KernelCertified, stop: threading.Event) -> None:
        artifact_id = payload.kernel_artifact_id
        directory = self._workdir / "benchmark" / artifact_id
        if self._insist(lambda: self._library.record(artifact_id), stop).state in FINAL:
            return self._tell(artifact_id, stop)  # told before, and the directory is gone
        data = (directory / "report.json").read_bytes()
        if hashlib.sha256(data).hexdigest() != payload.report_sha256:
            raise InvalidEntry(f"{directory}: holds another report than the one that was announced")
        report: Mapping[str, Any] = json.loads(data)
        self._insist(lambda: self._library.certify(artifact_id, report, directory), stop)
        shutil.rmtree(directory, ignore_errors=True)
        return self._tell(artifact_id, stop)

    def _rejected(self, payload: wire.KernelRejected, stop: threading.Event) -> None:
        artifact_id, cause = payload.kernel_artifact_id, f"{payload.stage}: {payload.cause}"
        report = self._failed_report(artifact_id) if payload.stage == "benchmark" else None
        if not payload.noisy:
            self._reject(artifact_id, cause, stop, report)
            return
        self._noisy[artifact_id] += 1
        self._insist(lambda: self._library.noisy(artifact_id, cause, report), stop)
        if self._noisy[artifact_id] < NOISY_TRIES:
            self.send_on(artifact_id, stop)
        else:
            self._tell(artifact_id, stop)

    def _reject(
        self, artifact_id: str, cause: str, stop: threading.Event, report: Mapping[str, Any] | None = None
    ) -> None:
        self._insist(lambda: self._library.reject(artifact_id, cause, report), stop)
        self._tell(artifact_id, stop)
        self._release(artifact_id, stop)

    def _failed_report(self, artifact_id: str) -> Mapping[str, Any] | None:
        """What the benchmarker found out about an artifact that did not pass, if it got as far as a report."""
        path = report_beside(self._workdir / "benchmark" / artifact_id)
        try:
            report: Mapping[str, Any] = json.loads(path.read_bytes())
            path.unlink()
        except FileNotFoundError:
            return None
        return report

    def _release(self, baseline: str, stop: threading.Event) -> None:
        """Send on what has waited for this baseline."""
        with self._lock:
            waiting = sorted(self._waiting.pop(baseline, ()))
        for artifact_id in waiting:
            self.send_on(artifact_id, stop)

    def _bury(self, stop: threading.Event) -> None:
        """Reject what the bus has given up on; the letter stays where people can list and replay it."""
        for topic in (COMPILE, BENCHMARK, CATALOG):
            for letter in self._bus.dead_letters(topic):
                artifact_id = letter.properties.get("artifact", "")
                if letter.letter_id in self._buried:
                    continue
                self._buried.add(letter.letter_id)
                cause = f"given up on after {letter.deliveries} deliveries: {letter.cause}"
                _LOG.error("%s: %s", artifact_id or letter.message_id, cause)
                try:
                    self._reject(artifact_id, cause, stop)
                except LibraryUnavailable:
                    self._buried.discard(letter.letter_id)
                    raise
                except LibraryError as error:
                    _LOG.warning("dead letter %s: %s", letter.letter_id, error)

    def _tell(self, artifact_id: str, stop: threading.Event) -> None:
        record = self._insist(lambda: self._library.record(artifact_id), stop)
        update = wire.KernelCatalogUpdate(
            kernel_artifact_id=artifact_id,
            blueprint=record.blueprint,
            state=_STATES[record.state],
            tags=record.tags,
            risk=record.risk,
            cause=record.cause[:4000],
        )
        send_patiently(lambda: self._post.send(update, "urza", artifact_id), stop)
        self._changed(artifact_id)

    def _insist(self, action: Callable[[], T], stop: threading.Event) -> T:
        """Do it, waiting for a library that can't be reached; after too long, raises ``LibraryUnavailable``."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._breaker.call(action)
            except (LibraryUnavailable, CircuitOpen) as error:
                wait = max(0.1, self._breaker.retry_in)
                if stop.is_set() or time.monotonic() + wait >= deadline:
                    if isinstance(error, CircuitOpen):
                        raise LibraryUnavailable(str(error)) from error
                    raise
                _LOG.warning("%s; trying again in %.1f s", error, wait)
                stop.wait(wait)
