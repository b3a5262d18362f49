"""The two kinds of work a kernel needs, each taken from its queue by supervised threads: compiling and benchmarking.

A worker takes a message, has the work done in a process of its own, hands what came of it to the library, says so on
the bus and only then acknowledges. Whatever dies in between, the message comes again: what the library has already is
not done again, only said again. That the child was killed (from outside, or by the kernel for want of memory) is tried
again, as often as the bus delivers; an error, a timeout or a wrong result is a verdict at once.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import Message as Payload

from esper.errors import ArtifactError
from esper.kernel.hardware import hardware_target
from esper.kernel.reading import read_artifact
from esper.oona import Bus, Message
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urabrask import BenchmarkRequest, ValidationReport
from esper.urza import (
    BlobCorrupt,
    BlobMissing,
    KernelQuery,
    KernelRecord,
    Library,
    State,
    StateConflict,
    UnknownArtifact,
)
from esper.weatherlight.consuming import Activity, Again, Around, Consumer, Stopped, Tally, Untold
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post, interface_from_wire, strategy_from_wire
from esper.weatherlight.quiet import Turns
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.identity import ArtifactId, hardware_of
from leyline.topics import BENCHMARK, COMPILE, TOPICS, pool_subscription
from leyline.v1 import kernels_pb2 as wire

_LOG = logging.getLogger(__name__)

AGAIN = frozenset({"crashed", "memory"})
"""Endings that say something about the machine rather than about the kernel: tried again."""


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


class Worker(ABC):
    """Consumes one work queue. ``run`` is what a supervised thread does; several may.

    Args:
        hardware: the target it works for; this machine's if not given. Work for others is theirs, on subscriptions of
            their own, and acknowledged here without being done.
        abandon: set when work in hand is to be given up; if not given, work is given up as soon as a thread is told
            to stop, instead of being finished.
    """

    def __init__(
        self,
        bus: Bus,
        post: Post,
        library: PatientLibrary,
        topic: str,
        role: str,
        *,
        hardware: str | None = None,
        abandon: threading.Event | None = None,
        tally: Tally | None = None,
        activity: Activity | None = None,
        around: Around | None = None,
    ) -> None:
        self._post, self._library, self._role = post, library, role
        self._abandon = abandon
        self._tally = tally or Untold()
        self._hardware = hardware or hardware_target()
        self._consumer = Consumer(
            bus, post, topic, pool_subscription(TOPICS[topic], self._hardware), self._take, hardware=self._hardware,
            tally=tally, activity=activity, around=around,
        )  # fmt: skip

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        self._consumer.run(stop)

    def _take(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        """Do what is for this hardware. The bus has sorted by the key, which nobody signed; the payload is verified."""
        target = hardware_of(getattr(payload, "kernel_artifact_id", None))
        if target not in (None, self._hardware):
            _LOG.info("%s: is for %s, not for %s", message.message_id, target, self._hardware)
            return
        self._handle(payload, message, stop)

    @abstractmethod
    def _handle(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        """Do the work of one message; see ``Consumer`` for what its errors mean."""

    def _abandoned(self, stop: threading.Event) -> threading.Event:
        """Set when work in hand is not to be finished."""
        return stop if self._abandon is None else self._abandon

    def _say(self, payload: Payload, identity: str, stop: threading.Event) -> None:
        self._post.send_patiently(payload, self._role, identity, stop)

    def _record(self, identity: str, stop: threading.Event) -> KernelRecord:
        return self._library.ask(lambda library: library.record(identity), stop)

    def _settle(
        self,
        identity: str,
        step: Callable[[Library], object],
        stage: str,
        stop: threading.Event,
        built: wire.KernelBuilt | None = None,
    ) -> None:
        """Take a step and say how the artifact stands then, also when somebody else has brought it further."""
        try:
            self._library.ask(step, stop)
        except StateConflict as error:
            _LOG.warning("%s: %s; somebody else was there before", identity, error)
        record = self._record(identity, stop)
        _LOG.info("%s: %s", identity, record.state.value)
        self._tally.verdict(record.state.value)
        said = standing(record, stage)
        self._say(built if built is not None and isinstance(said, wire.KernelBuilt) else said, identity, stop)

    def _reject(
        self, identity: str, stage: str, cause: str, stop: threading.Event, report: Mapping[str, Any] | None = None
    ) -> None:
        reason = f"{stage}: {cause}"[:4000]
        self._settle(identity, lambda library: library.reject(identity, reason, report), stage, stop)


class CompileWorker(Worker):
    """Tezzeret's hands: compile requests in, built artifacts into the library, ``KernelBuilt`` out."""

    def __init__(
        self, bus: Bus, post: Post, library: PatientLibrary, builds: Builds, quiet: Turns, **more: Any
    ) -> None:
        super().__init__(bus, post, library, COMPILE, "tezzeret", **more)
        self._builds, self._quiet = builds, quiet

    def _handle(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if not isinstance(payload, wire.KernelCompileRequest):
            raise ValueError(f"{self._role}: does not know {payload.DESCRIPTOR.full_name}")
        identity = payload.kernel_artifact_id
        record = self._record(identity, stop)
        if record.state is not State.PENDING_BUILD:
            self._say(standing(record, "build"), identity, stop)
            return
        _LOG.info("%s: to be built (delivery %d)", identity, message.delivery_count)
        request = BuildRequest(
            BlueprintIR.from_json(payload.blueprint_ir),
            interface_from_wire(payload.interface),
            strategy_from_wire(payload.strategy),
            float(payload.timeout_seconds) or None,
        )
        if request.artifact_id != identity:
            # Another worker may be of the right kind; if none is, the dead letter says so.
            raise Again(f"this machine would build {request.artifact_id}: another design or toolchain")
        abandoned = self._abandoned(stop)
        with self._quiet.build(abandoned) as go:
            if not go:
                raise Stopped("stopped before it was built")
            verdict = self._builds.build(request)
        if abandoned.is_set():
            raise Stopped("stopped while it was built")
        self._tally.built(request.strategy, verdict.seconds)
        path = verdict.path
        if verdict.ok and path is not None:
            built = wire.KernelBuilt(
                kernel_artifact_id=identity, manifest_sha256=verdict.manifest_digest, build_seconds=verdict.seconds,
                size_bytes=verdict.size,
            )  # fmt: skip
            try:
                self._settle(identity, lambda library: library.built(identity, path), "build", stop, built)
            finally:
                shutil.rmtree(path, ignore_errors=True)
        elif verdict.ending in AGAIN:
            raise Again(f"build {verdict.ending}: {verdict.cause}")
        else:
            self._reject(identity, "build", f"{verdict.ending}: {verdict.cause}", stop)


class BenchmarkWorker(Worker):
    """Urabrask's hands: benchmark requests in, verdicts into the library and onto the bus.

    ``workdir`` holds the library's own copies while they are measured: what gets signed is what everybody fetches.
    """

    def __init__(
        self, bus: Bus, post: Post, library: PatientLibrary, benchmarks: Benchmarks, quiet: Turns, workdir: Path,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(bus, post, library, BENCHMARK, "urabrask", **more)
        self._benchmarks, self._quiet, self._workdir = benchmarks, quiet, workdir

    def _handle(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if not isinstance(payload, wire.KernelBenchmarkRequest):
            raise ValueError(f"{self._role}: does not know {payload.DESCRIPTOR.full_name}")
        identity = payload.kernel_artifact_id
        record = self._record(identity, stop)
        if record.state is State.BUILT:
            self._library.ask(lambda library: library.begin_benchmark(identity), stop)
        elif record.state is not State.PENDING_BENCHMARK:
            if record.state is State.PENDING_BUILD:
                raise Again("is not built yet")
            self._say(standing(record, "benchmark"), identity, stop)
            return
        _LOG.info("%s: to be measured (delivery %d)", identity, message.delivery_count)
        self._workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._workdir, ignore_cleanup_errors=True) as folder:
            try:
                artifact, baseline = self._fetch(identity, Path(folder), stop)
            except (BlobMissing, BlobCorrupt, UnknownArtifact) as error:
                self._reject(identity, "benchmark", f"its files are lost: {error}", stop)
                return
            self._measure(identity, artifact, baseline, float(payload.timeout_seconds), stop)

    def _fetch(self, identity: str, folder: Path, stop: threading.Event) -> tuple[Path, Path | None]:
        artifact = self._library.ask(lambda library: library.fetch(identity, folder / "artifact"), stop)
        other = ArtifactId.parse(identity).baseline
        if other is None:
            return artifact, None
        return artifact, self._library.ask(lambda library: library.fetch(other, folder / "baseline"), stop)

    def _measure(
        self, identity: str, artifact: Path, baseline: Path | None, timeout: float, stop: threading.Event
    ) -> None:
        try:
            request, peers, previous = self._question(identity, artifact, baseline, timeout, stop)
            abandoned = self._abandoned(stop)
            with self._quiet.measure(abandoned) as go:
                if not go:
                    raise Stopped("stopped before it was measured")
                report = self._benchmarks.certify(request, peers=peers, previous=previous)
        except ArtifactError as error:
            self._reject(identity, "benchmark", str(error), stop)
            return
        if abandoned.is_set():
            raise Stopped("stopped while it was measured")
        if report.body.get("ending") in AGAIN:
            raise Again(f"benchmark {report.body['ending']}: {report.cause}")
        body, cause = dict(report.body), f"benchmark: {report.cause}"[:4000]
        if report.verdict == "rejected":
            self._reject(identity, "benchmark", report.cause, stop, body)
        elif report.verdict == "noisy":
            self._settle(identity, lambda library: library.noisy(identity, cause, body), "benchmark", stop)
        else:
            self._settle(identity, lambda library: library.certify(identity, body, artifact), "benchmark", stop)

    def _question(
        self, identity: str, artifact: Path, baseline: Path | None, timeout: float, stop: threading.Event
    ) -> tuple[BenchmarkRequest, list[Mapping[str, Any]], tuple[str, ...]]:
        """What to measure, the reports of comparable artifacts, and the tags it had; all from the library."""
        record = self._record(identity, stop)
        interface = read_artifact(artifact).manifest.slot_interface
        query = KernelQuery(interface, record.hardware, toolchain=record.toolchain)
        offered = self._library.ask(lambda library: library.query(query), stop)
        risk = self._library.ask(lambda library: library.blueprint(record.blueprint_digest).risk, stop)
        peers = [peer.report for peer in offered if peer.artifact_id != identity]
        request = BenchmarkRequest(artifact, baseline, prior_risk=risk)
        return replace(request, timeout=timeout) if timeout else request, peers, record.tags


def standing(record: KernelRecord, stage: str) -> Payload:
    """How an artifact stands, as whoever has done ``stage`` (build or benchmark) says it."""
    identity = record.artifact_id
    if record.state in (State.REJECTED, State.RETIRED, State.NOISY):
        noisy = record.state is State.NOISY
        return wire.KernelRejected(kernel_artifact_id=identity, stage=stage, cause=record.cause, noisy=noisy)
    if stage == "build" or record.state is not State.VALIDATED:
        return wire.KernelBuilt(kernel_artifact_id=identity)
    report = record.report
    return wire.KernelCertified(
        kernel_artifact_id=identity,
        manifest_sha256=str(report.get("manifest", "")),
        report_sha256=canonical.digest(dict(report)),
        hardware=record.hardware,
        measurements=_measurements(report),
        tags=record.tags,
        risk=record.risk,
    )


def _measurements(report: Mapping[str, Any]) -> wire.KernelMeasurements:
    numbers = {
        name: float(report[name])
        for name in wire.KernelMeasurements.DESCRIPTOR.fields_by_name
        if name != "samples" and isinstance(report.get(name), int | float)
    }
    samples = report.get("samples")
    calls = samples.get("calls") if isinstance(samples, Mapping) else samples
    return wire.KernelMeasurements(**numbers, samples=calls if isinstance(calls, int) else 0)
