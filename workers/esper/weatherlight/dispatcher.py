"""Urza's hand in the pipeline: sends artifacts on their way and tells what became of them.

    prefetch request → entered in the library, then to the compile queue
    KernelBuilt      → to the benchmark queue, once its baseline is built too
    KernelCertified  → told to everybody and to the runs that asked
    KernelRejected   → told; or, when the machine was restless, queued again a few times
    field report     → into the library
    dead letters     → rejected with their cause

The workers have entered their results in the library before they say anything: what a message says is only a hint to
look there, and nothing is decided on it. Nothing that matters is kept here either, so a dispatcher that dies is
replaced by one that asks the library what is unfinished.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from google.protobuf.message import Message as Payload

from esper.errors import BusError, LibraryError
from esper.oona import Bus, DeadLetter, Message
from esper.urza import InvalidEntry, KernelRecord, Library, State, UnknownArtifact, UnknownBlueprint
from esper.weatherlight.consuming import Around, Consumer, Tally
from esper.weatherlight.patient import AWAY, PatientLibrary
from esper.weatherlight.post import (
    Post,
    field_report_from_wire,
    interface_from_wire,
    interface_to_wire,
    strategy_from_wire,
    strategy_to_wire,
)
from leyline.errors import LeylineError
from leyline.identity import ArtifactId
from leyline.topics import BENCHMARK, CATALOG, COMPILE, FIELD_REPORTS, PREFETCH_REQUEST, TOPICS
from leyline.v1 import kernels_pb2 as wire
from leyline.v1 import telemetry_pb2 as telemetry

_LOG = logging.getLogger(__name__)

FINAL = frozenset({State.VALIDATED, State.REJECTED, State.RETIRED})
UNFINISHED = (State.PENDING_BUILD, State.BUILT, State.PENDING_BENCHMARK, State.NOISY)
NOISY_TRIES = 3
"""Benchmarks of one artifact, each time it is asked for, before a restless machine is accepted as the answer."""
LONGEST_REST = 86_400.0
"""Seconds after which such an artifact is tried anew at the latest, where that is done at all."""
BENCHMARK_SECONDS = 120.0
"""How long checking and measuring one artifact may take."""
REMEMBERED = 65_536
"""Artifacts for which it is remembered who asked; beyond, a run finds its verdicts in the library only."""
KEPT_SECONDS = float(min(TOPICS[COMPILE].retention, TOPICS[BENCHMARK].retention))
"""After this nobody can take a message any more: what no pool of its hardware has taken is sent again."""
ROLE = "urza"

_STATES = {
    State.PENDING_BUILD: wire.KERNEL_STATE_PENDING_BUILD,
    State.BUILT: wire.KERNEL_STATE_BUILT,
    State.PENDING_BENCHMARK: wire.KERNEL_STATE_PENDING_BENCHMARK,
    State.VALIDATED: wire.KERNEL_STATE_VALIDATED,
    State.REJECTED: wire.KERNEL_STATE_REJECTED,
    State.NOISY: wire.KERNEL_STATE_NOISY,
    State.RETIRED: wire.KERNEL_STATE_RETIRED,
}


class Dispatcher:
    """See the module. Safe to use from several threads; artifacts are handled one after the other.

    Args:
        changed: told every artifact that was decided, after the library has it.
        build_seconds: how long a build may take; 0 takes the strategy's own limit.
        benchmark_seconds: how long checking and measuring one artifact may take.
        letters_seconds: between two looks at the dead letters; each is a question to the broker.
        round_seconds: between two looks for what others have entered in the library without saying so; 0 for never.
        rest_seconds: after which an artifact that a restless machine could not measure is tried anew though nobody
            asks, three times again; twice as long each time it is in vain, up to a day. 0 for never.
        sweep_seconds, grace_seconds: how often the library is swept, 0 for never, and what is old enough.
        clock: monotonic seconds, for what is done now and then.
        wall: seconds since 1970, as the library's history has them.
    """

    def __init__(
        self,
        bus: Bus,
        post: Post,
        library: PatientLibrary,
        *,
        changed: Callable[[str], object] = lambda _: None,
        build_seconds: float = 0.0,
        benchmark_seconds: float = BENCHMARK_SECONDS,
        letters_seconds: float = 0.5,
        round_seconds: float = 0.0,
        rest_seconds: float = 0.0,
        sweep_seconds: float = 0.0,
        grace_seconds: float = 86_400.0,
        tally: Tally | None = None,
        around: Around | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._bus, self._post, self._library, self._changed = bus, post, library, changed
        self._build_seconds, self._benchmark_seconds = build_seconds, benchmark_seconds
        self._clock, self._wall, self._rest = clock, wall, rest_seconds
        self._letters = _Every(letters_seconds, clock)
        self._round = _Every(round_seconds, clock, at_once=False)
        self._sweep, self._grace = _Every(sweep_seconds, clock, at_once=False), grace_seconds
        self._lock = threading.RLock()
        self._underway: dict[str, tuple[State, float]] = {}
        self._asked: dict[str, set[str]] = defaultdict(set)
        self._buried: set[str] = set()

        def consumer(topic: str, handle: Callable[[Payload, Message, threading.Event], None]) -> Consumer:
            return Consumer(bus, post, topic, ROLE, handle, tally=tally, around=around)

        self._catalog = consumer(CATALOG, self._on_catalog)
        self._requests = consumer(PREFETCH_REQUEST, self._on_request)
        self._reports = consumer(FIELD_REPORTS, self._on_report)

    def run(self, stop: threading.Event) -> None:
        """Take what the workers say, and look after dead letters and the library, until ``stop`` is set."""
        self._catalog.run(stop, lambda: self._look_after(stop))

    def run_requests(self, stop: threading.Event) -> None:
        """Take what runs ask for, until ``stop`` is set."""
        self._requests.run(stop)

    def run_reports(self, stop: threading.Event) -> None:
        """Take field reports, until ``stop`` is set."""
        self._reports.run(stop)

    def resume(self, stop: threading.Event) -> int:
        """Send on everything that is unfinished in the library; returns how much that was."""
        found = self._library.ask(lambda library: library.records(UNFINISHED), stop)
        left = [record for record in found if self._due(record, stop)]
        for record in left:
            if stop.is_set():
                break
            self.advance(record.artifact_id, stop)
        return len(left)

    def gave_up(self, record: KernelRecord, stop: threading.Event) -> bool:
        """Whether the machines were too restless for this artifact as often as is tried."""
        return record.state is State.NOISY and len(self._noise(record.artifact_id, stop)) % NOISY_TRIES == 0

    def _due(self, record: KernelRecord, stop: threading.Event) -> bool:
        """Whether an unfinished artifact was not given up on, or has been left alone for long enough since."""
        if record.state is not State.NOISY:
            return True
        noise = self._noise(record.artifact_id, stop)
        if len(noise) % NOISY_TRIES:
            return True
        if not self._rest:
            return False
        pause = self._rest * 2.0 ** min(len(noise) // NOISY_TRIES - 1, 32)
        return self._wall() - noise[-1] >= min(pause, LONGEST_REST)

    def advance(self, artifact_id: str, stop: threading.Event) -> State:
        """Send an unfinished artifact to where it is worked on next, unless it is there already; returns its state."""
        with self._lock:
            record = self._record(artifact_id, stop)
            if record.state in FINAL or self._on_its_way(artifact_id, record.state):
                return record.state
            if record.state is State.PENDING_BUILD:
                self._compile(record, stop)
            else:
                self._benchmark(record, stop)
            return record.state

    def _on_its_way(self, artifact_id: str, state: State) -> bool:
        """Whether it was sent for what this state asks for, by a message that can't have run out."""
        sent = self._underway.get(artifact_id)
        return sent is not None and sent[0] is state and self._clock() - sent[1] < KEPT_SECONDS

    def _on_catalog(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if isinstance(payload, wire.KernelCatalogUpdate):
            return  # our own
        if not isinstance(payload, wire.KernelBuilt | wire.KernelCertified | wire.KernelRejected):
            raise ValueError(f"{CATALOG}: does not know {payload.DESCRIPTOR.full_name}")
        with self._lock:
            self._look(payload.kernel_artifact_id, stop)

    def _look(self, artifact_id: str, stop: threading.Event) -> None:
        """Do what an artifact's state asks for."""
        record = self._record(artifact_id, stop)
        noisy = record.state is State.NOISY
        if record.state in FINAL or (noisy and self.gave_up(record, stop)):
            self._tell(record, stop)
        elif record.state is State.BUILT or noisy:
            self._benchmark(record, stop)
        # Otherwise it is said again of what is on its way already.
        for waiting in self._waiting_for(artifact_id, stop):
            self._benchmark(waiting, stop)

    def _waiting_for(self, baseline: str, stop: threading.Event) -> Iterable[KernelRecord]:
        """Built artifacts that are to be measured against this one."""
        if ArtifactId.parse(baseline).baseline is not None:
            return ()
        built = self._library.ask(lambda library: library.records([State.BUILT]), stop)
        return [each for each in built if str(ArtifactId.parse(each.artifact_id).baseline) == baseline]

    def _compile(self, record: KernelRecord, stop: threading.Event) -> None:
        identity = record.artifact_id
        interface = self._library.ask(lambda library: library.interface(identity), stop)
        design = self._library.ask(lambda library: library.blueprint(record.blueprint_digest), stop)
        request = wire.KernelCompileRequest(
            kernel_artifact_id=identity,
            blueprint=record.blueprint,
            blueprint_ir=design.ir.to_json(),
            interface=interface_to_wire(interface),
            strategy=strategy_to_wire(record.strategy),
            hardware=record.hardware,
            toolchain=record.toolchain,
            timeout_seconds=round(self._build_seconds),
        )
        self._underway[identity] = (State.PENDING_BUILD, self._clock())
        self._post.send_patiently(request, ROLE, identity, stop)

    def _benchmark(self, record: KernelRecord, stop: threading.Event) -> None:
        """Queue a built artifact for its benchmark, now or when its baseline is built; reject it when that can't be."""
        identity = record.artifact_id
        baseline = ArtifactId.parse(identity).baseline
        if baseline is not None:
            other = self._baseline(record, str(baseline), stop)
            if other.state is State.PENDING_BUILD:
                if not self._on_its_way(other.artifact_id, State.PENDING_BUILD):
                    self._compile(other, stop)
                return  # sent on when that one is built
            if other.state in (State.REJECTED, State.RETIRED):
                cause = f"can't be measured: its baseline {baseline} is {other.state.value.lower()}: {other.cause}"
                self._library.ask(lambda library: library.reject(identity, cause[:4000]), stop)
                self._tell(self._record(identity, stop), stop)
                return
        state = self._library.ask(lambda library: library.begin_benchmark(identity), stop)
        if state is not State.PENDING_BENCHMARK:
            self._tell(self._record(identity, stop), stop)
            return
        request = wire.KernelBenchmarkRequest(
            kernel_artifact_id=identity,
            baseline_artifact_id="" if baseline is None else str(baseline),
            timeout_seconds=max(1, round(self._benchmark_seconds)),
        )
        self._underway[identity] = (state, self._clock())
        self._post.send_patiently(request, ROLE, identity, stop)

    def _baseline(self, record: KernelRecord, baseline: str, stop: threading.Event) -> KernelRecord:
        """The artifact another is measured against; entered when nobody has asked for it yet."""

        def enter(library: Library) -> object:
            interface = library.interface(record.artifact_id)
            parsed = ArtifactId.parse(baseline)
            return library.begin(
                parsed, record.blueprint_digest, interface, parsed.strategy, parsed.hardware, parsed.toolchain
            )

        try:
            return self._record(baseline, stop)
        except UnknownArtifact:
            self._library.ask(enter, stop)
            return self._record(baseline, stop)

    def _on_request(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if not isinstance(payload, wire.KernelPrefetchRequest):
            raise ValueError(f"{PREFETCH_REQUEST}: does not know {payload.DESCRIPTOR.full_name}")
        identity = payload.kernel_artifact_id
        parsed = ArtifactId.parse(identity)
        interface, strategy = interface_from_wire(payload.interface), strategy_from_wire(payload.strategy)
        with self._lock:
            try:
                self._library.ask(
                    lambda library: library.begin(
                        parsed, payload.blueprint, interface, strategy, payload.hardware, parsed.toolchain
                    ),
                    stop,
                )
            except (UnknownBlueprint, InvalidEntry) as error:
                self._refuse(payload.run, identity, str(error), stop, retryable=False)
                return
            if len(self._asked) < REMEMBERED or identity in self._asked:
                self._asked[identity].add(payload.run)
            if self.advance(identity, stop) in FINAL:
                self._tell_runs(self._record(identity, stop), stop)

    def _on_report(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        if not isinstance(payload, telemetry.FieldReport):
            raise ValueError(f"{FIELD_REPORTS}: does not know {payload.DESCRIPTOR.full_name}")
        report = field_report_from_wire(payload)
        self._library.ask(lambda library: library.field_report(report), stop)

    def _tell(self, record: KernelRecord, stop: threading.Event) -> None:
        identity = record.artifact_id
        self._underway.pop(identity, None)
        update = wire.KernelCatalogUpdate(
            kernel_artifact_id=identity,
            blueprint=record.blueprint,
            state=_STATES[record.state],
            tags=record.tags,
            risk=record.risk,
            cause=record.cause[:4000],
        )
        self._post.send_patiently(update, ROLE, identity, stop)
        self._tell_runs(record, stop)
        self._changed(identity)

    def _tell_runs(self, record: KernelRecord, stop: threading.Event) -> None:
        """Answer the runs that asked this dispatcher for an artifact."""
        identity, runs = record.artifact_id, sorted(self._asked.pop(record.artifact_id, ()))
        if not runs:
            return
        if record.state is not State.VALIDATED:
            for run in runs:
                self._refuse(run, identity, record.cause, stop, retryable=record.state is State.NOISY)
            return
        size = sum(file.size for file in self._library.ask(lambda library: library.files(identity), stop))
        for run in runs:
            ready = wire.KernelArtifactReady(
                run=run, kernel_artifact_id=identity, manifest_sha256=str(record.report.get("manifest", "")),
                size_bytes=size,
            )  # fmt: skip
            self._post.send_patiently(ready, ROLE, run, stop, run=run)

    def _refuse(self, run: str, identity: str, cause: str, stop: threading.Event, *, retryable: bool) -> None:
        error = wire.KernelArtifactError(
            run=run, kernel_artifact_id=identity, cause=cause[:4000], retryable=retryable
        )  # fmt: skip
        self._post.send_patiently(error, ROLE, run, stop, run=run)

    def _look_after(self, stop: threading.Event) -> None:
        if self._letters.due():
            try:
                self._bury(stop)
            except BusError as error:
                _LOG.warning("dead letters: %s", error)
        if self._round.due():
            self.resume(stop)
        if self._sweep.due():
            swept = self._library.ask(lambda library: library.sweep(self._grace), stop)
            _LOG.info("swept: %d blobs, %d bytes, files of %d artifacts", swept.blobs, swept.bytes, swept.artifacts)

    def _bury(self, stop: threading.Event) -> None:
        """Reject what the bus has given up on; the letter stays where people can list and replay it."""
        letters = [letter for topic in (COMPILE, BENCHMARK, CATALOG) for letter in self._bus.dead_letters(topic)]
        marks = {_mark(letter): letter for letter in letters}
        self._buried &= marks.keys()
        for mark, letter in marks.items():
            if stop.is_set():
                return
            if mark not in self._buried:
                self._reject(letter, mark, stop)
                self._buried.add(mark)

    def _reject(self, letter: DeadLetter, mark: str, stop: threading.Event) -> None:
        cause = f"given up on after {letter.deliveries} deliveries: {letter.cause[:3000]} {mark}"
        try:
            # What nobody who is trusted has sent must not get an artifact rejected.
            payload = self._post.peek(letter.topic, letter.data)
            identity = str(getattr(payload, "kernel_artifact_id", ""))
            if isinstance(payload, wire.KernelCatalogUpdate):
                return
            with self._lock:
                if self._mentioned(identity, mark, stop):
                    return  # a dispatcher before this one has rejected it; a person may have had it tried again since
                _LOG.error("%s: %s", identity, cause)
                self._library.ask(lambda library: library.reject(identity, cause), stop)
                self._look(identity, stop)
        except AWAY:
            raise
        except (LeylineError, LibraryError) as error:
            _LOG.warning("dead letter %s of %s: %s", letter.letter_id, letter.topic, error)

    def _mentioned(self, identity: str, mark: str, stop: threading.Event) -> bool:
        changes = self._library.ask(lambda library: library.history(identity), stop)
        return any(mark in change.cause for change in changes)

    def _noise(self, identity: str, stop: threading.Event) -> list[float]:
        """When an artifact was found too noisy, the last time last."""
        changes = self._library.ask(lambda library: library.history(identity), stop)
        return [change.at for change in changes if change.target is State.NOISY]

    def _record(self, identity: str, stop: threading.Event) -> KernelRecord:
        return self._library.ask(lambda library: library.record(identity), stop)


def _mark(letter: DeadLetter) -> str:
    """Names one death of a message: the same letter may be replayed and die again."""
    died = datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="milliseconds")
    return f"(dead letter {letter.letter_id} of {died})"


class _Every:
    """Says now and then that it is time; 0 seconds is never."""

    def __init__(self, seconds: float, clock: Callable[[], float], *, at_once: bool = True) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = clock() + (0.0 if at_once else seconds)

    def due(self) -> bool:
        if self._seconds <= 0 or self._clock() < self._next:
            return False
        self._next = self._clock() + self._seconds
        return True
