"""The two kinds of work a kernel needs, each taken from its queue by supervised threads: compiling and benchmarking.

A worker takes a message, has the work done in a process of its own, says what came of it and only then acknowledges.
Whatever dies in between, the message comes again. That the child was killed (from outside, or by the kernel for want of
memory) is tried again, as often as the bus delivers; an error, a timeout or a wrong result is a verdict at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import Message as Payload

from esper.errors import ArtifactError
from esper.kernel.files import write_file
from esper.oona import Bus, BusFull, Message, Subscription
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urabrask import BenchmarkRequest, ValidationReport
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.post import Post, interface_from_wire, strategy_from_wire
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError
from leyline.topics import BENCHMARK, COMPILE
from leyline.v1 import kernels_pb2 as wire

_LOG = logging.getLogger(__name__)

AGAIN = frozenset({"crashed", "memory"})
"""Endings that say something about the machine rather than about the kernel: tried again."""
POLL_SECONDS = 0.5


class Builds(Protocol):
    """Builds one artifact in a process of its own; ``esper.tezzeret.Builder`` does."""

    def build(self, request: BuildRequest) -> BuildVerdict:
        """Build it; raises ``KernelBuildError`` only when nothing can be built at all."""
        ...


class Benchmarks(Protocol):
    """Checks and measures one artifact in a process of its own; ``esper.urabrask.Benchmarker`` does."""

    def certify(
        self, request: BenchmarkRequest, *, peers: Iterable[Mapping[str, Any]] = (), previous: Iterable[str] = ()
    ) -> ValidationReport:
        """Measure it and, when it is right, put report and signature into it; raises ``ArtifactError``."""
        ...


@dataclass(frozen=True)
class Context:
    """What a benchmark has to know about an artifact besides its files.

    ``prior_risk`` is its blueprint's, ``peers`` the reports of comparable artifacts, ``previous`` the tags it had.
    """

    prior_risk: float
    peers: Sequence[Mapping[str, Any]] = ()
    previous: Sequence[str] = ()


class Quiet:
    """Lets builds run together, but a benchmark alone, and before builds that have not begun.

    On a machine with few cores a compiler beside it is all a benchmark would measure. ``enabled=False`` lets all pass.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._changed = threading.Condition()
        self._building = 0
        self._measuring = False
        self._waiting = 0

    @contextmanager
    def build(self, stop: threading.Event) -> Iterator[bool]:
        """Yield whether the work may begin; ``False`` once ``stop`` is set."""
        with self._changed:
            while self._enabled and (self._measuring or self._waiting) and not stop.is_set():
                self._changed.wait(POLL_SECONDS)
            self._building += 1
        try:
            yield not stop.is_set()
        finally:
            with self._changed:
                self._building -= 1
                self._changed.notify_all()

    @contextmanager
    def measure(self, stop: threading.Event) -> Iterator[bool]:
        """As ``build``, for work that wants the machine for itself."""
        with self._changed:
            self._waiting += 1
            while self._enabled and (self._measuring or self._building) and not stop.is_set():
                self._changed.wait(POLL_SECONDS)
            self._waiting -= 1
            self._measuring = True
        try:
            yield not stop.is_set()
        finally:
            with self._changed:
                self._measuring = False
                self._changed.notify_all()


class Worker:
    """Consumes one work queue. ``run`` is what a supervised thread does; several may."""

    def __init__(self, bus: Bus, post: Post, topic: str, role: str) -> None:
        self._bus, self._post, self._topic, self._role = bus, post, topic, role

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. What is open then goes back to the queue."""
        with self._bus.subscribe(self._topic, self._role) as subscription:
            while not stop.is_set():
                message = subscription.receive(POLL_SECONDS)
                if message is not None:
                    self._take(subscription, message, stop)

    def _take(self, subscription: Subscription, message: Message, stop: threading.Event) -> None:
        try:
            payload, opened = self._post.open(message)
            answer = self._work(payload, stop)
        except (LeylineError, ValueError) as error:
            subscription.nack(message, f"{type(error).__name__}: {error}")
            return
        if stop.is_set():
            return
        if isinstance(answer, str):
            _LOG.warning("%s: %s (delivery %d)", message.key, answer, message.delivery_count)
            subscription.nack(message, answer)
            return
        self._say(answer, message, stop)
        subscription.ack(message)
        self._post.done(message, opened)

    def _work(self, payload: Payload, stop: threading.Event) -> Payload | str:
        """The answer to publish, or why the message should come again."""
        raise ValueError(f"{self._role}: does not know {payload.DESCRIPTOR.full_name}")

    def _say(self, answer: Payload, message: Message, stop: threading.Event) -> None:
        send_patiently(lambda: self._post.send(answer, self._role, message.key or ""), stop)


class CompileWorker(Worker):
    """Tezzeret's hands: compile requests in, ``KernelBuilt`` or ``KernelRejected`` out."""

    def __init__(self, bus: Bus, post: Post, builds: Builds, quiet: Quiet) -> None:
        super().__init__(bus, post, COMPILE, "tezzeret")
        self._builds, self._quiet = builds, quiet

    def _work(self, payload: Payload, stop: threading.Event) -> Payload | str:
        if not isinstance(payload, wire.KernelCompileRequest):
            return super()._work(payload, stop)
        request = BuildRequest(
            BlueprintIR.from_json(payload.blueprint_ir),
            interface_from_wire(payload.interface),
            strategy_from_wire(payload.strategy),
            float(payload.timeout_seconds) or None,
        )
        identity = payload.kernel_artifact_id
        if request.artifact_id != identity:
            return _rejected(
                identity, "build", f"this machine would build {request.artifact_id}: other hardware or toolchain"
            )
        with self._quiet.build(stop) as go:
            if not go:
                return "stopped"
            verdict = self._builds.build(request)
        if verdict.ok and verdict.path is not None:
            return wire.KernelBuilt(
                kernel_artifact_id=identity,
                manifest_sha256=verdict.manifest_digest,
                location=str(verdict.path),
                build_seconds=verdict.seconds,
                size_bytes=verdict.size,
            )
        if verdict.ending in AGAIN:
            return f"build {verdict.ending}: {verdict.cause}"
        return _rejected(identity, "build", f"{verdict.ending}: {verdict.cause}")


class BenchmarkWorker(Worker):
    """Urabrask's hands: benchmark requests in, ``KernelCertified`` or ``KernelRejected`` out.

    The report of an artifact that did not pass is left beside it, as ``<artifact id>.report.json``.
    """

    def __init__(
        self, bus: Bus, post: Post, benchmarks: Benchmarks, quiet: Quiet, context: Callable[[str], Context]
    ) -> None:
        super().__init__(bus, post, BENCHMARK, "urabrask")
        self._benchmarks, self._quiet, self._context = benchmarks, quiet, context

    def _work(self, payload: Payload, stop: threading.Event) -> Payload | str:
        if not isinstance(payload, wire.KernelBenchmarkRequest):
            return super()._work(payload, stop)
        identity, artifact = payload.kernel_artifact_id, Path(payload.location)
        context = self._context(identity)
        request = BenchmarkRequest(
            artifact,
            Path(payload.baseline_location) if payload.baseline_location else None,
            prior_risk=context.prior_risk,
            timeout=float(payload.timeout_seconds),
        )
        with self._quiet.measure(stop) as go:
            if not go:
                return "stopped"
            try:
                report = self._benchmarks.certify(request, peers=context.peers, previous=context.previous)
            except ArtifactError as error:
                return _rejected(identity, "benchmark", str(error))
        if report.body.get("ending") in AGAIN:
            return f"benchmark {report.body['ending']}: {report.cause}"
        if report.verdict != "validated":
            write_file(report_beside(artifact), canonical.dumps(dict(report.body)))
            return _rejected(identity, "benchmark", report.cause, noisy=report.verdict == "noisy")
        return wire.KernelCertified(
            kernel_artifact_id=identity,
            manifest_sha256=payload.manifest_sha256,
            report_sha256=report.digest,
            hardware=str(report.body.get("hardware", "")),
            measurements=_measurements(report.body),
            tags=report.tags,
            risk=report.risk,
        )


def report_beside(artifact: Path) -> Path:
    """Where the report of an artifact that did not pass is left."""
    return artifact.with_name(f"{artifact.name}.report.json")


def send_patiently(send: Callable[[], object], stop: threading.Event, backoff: Backoff | None = None) -> None:
    """Send, waiting while the queue is full; gives up when told to stop. Raises ``BusFull`` after the last try."""
    rule = backoff or Backoff(first=0.05, longest=2.0, tries=30)
    failures = 0
    while not stop.is_set():
        try:
            send()
            return
        except BusFull:
            failures += 1
            wait = rule.wait(failures)
            if wait is None:
                raise
            stop.wait(wait)


def _rejected(identity: str, stage: str, cause: str, noisy: bool = False) -> wire.KernelRejected:
    return wire.KernelRejected(kernel_artifact_id=identity, stage=stage, cause=cause[:4000], noisy=noisy)


def _measurements(report: Mapping[str, Any]) -> wire.KernelMeasurements:
    numbers = {
        name: float(report[name])
        for name in wire.KernelMeasurements.DESCRIPTOR.fields_by_name
        if name != "samples" and isinstance(report.get(name), int | float)
    }
    samples = report.get("samples")
    calls = samples.get("calls") if isinstance(samples, Mapping) else samples
    return wire.KernelMeasurements(**numbers, samples=calls if isinstance(calls, int) else 0)
