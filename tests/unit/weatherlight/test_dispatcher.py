"""The dispatcher: artifacts on their way, verdicts to those who asked, and nothing kept that matters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message as Payload

from artifacts import VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.oona import InProcessBus, Outcome
from esper.oona.keyfiles import TrustedFolder, load_signer, make_key
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urza import FieldReport, SqlLibrary, State
from esper.weatherlight.dispatcher import Dispatcher
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post, field_report_to_wire, interface_to_wire, strategy_to_wire
from esper.weatherlight.workers import BenchmarkWorker, CompileWorker, Quiet
from hands import AwayLibrary, QuickBenchmarks, QuickBuilds
from leyline.identity import ArtifactId
from leyline.interface import Interface
from leyline.topics import BENCHMARK, CATALOG, COMPILE, PREFETCH_ERROR, PREFETCH_READY
from leyline.v1 import kernels_pb2 as wire

PATIENCE = 60.0


def identity_of(name: str, strategy: str = "fast", interface: Interface = VECTOR) -> str:
    digest = CATALOGUE[name].ir.digest()
    return str(ArtifactId.make(digest, interface, hardware_target(), strategy, toolchain_hash()))


class Bench:
    """A library, a bus, a dispatcher and, once started, workers."""

    def __init__(self, folder: Path) -> None:
        make_key(folder, "all", ["urza", "tezzeret", "urabrask", "weatherlight", "tamiyo"])
        make_key(folder / "elsewhere", "thief", ["urza", "tezzeret", "weatherlight"])
        self.sql = SqlLibrary.open(folder / "library")
        self.library = AwayLibrary(self.sql)
        self.bus, self.folder = InProcessBus(), folder
        ring = TrustedFolder(folder / "trusted")
        self.post = Post(self.bus, load_signer(folder / "all.pem"), ring)
        self.thief = Post(self.bus, load_signer(folder / "elsewhere" / "thief.pem"), ring)
        self.builds, self.benchmarks = QuickBuilds(folder / "built"), QuickBenchmarks()
        self.stop, self.threads = threading.Event(), list[threading.Thread]()
        self.decided: list[str] = []
        self.answers = {
            topic: self.post.inbox(self.bus.subscribe(topic, "run-1", key="run-1"))
            for topic in (PREFETCH_READY, PREFETCH_ERROR)
        }
        for name in ("low_rank", "bottleneck"):
            self.sql.register_blueprint(name, CATALOGUE[name].ir, 0.2)

    def dispatcher(self, **more: Any) -> Dispatcher:
        patient = PatientLibrary(self.library, 30.0)  # type: ignore[arg-type]
        more = {"letters_seconds": 0.05} | more
        return Dispatcher(self.bus, self.post, patient, changed=self.decided.append, **more)

    def start(self, dispatcher: Dispatcher | None = None, *, workers: bool = True) -> Dispatcher:
        started = dispatcher or self.dispatcher()
        works = [started.run, started.run_requests, started.run_reports]
        if workers:
            patient = PatientLibrary(self.library, 30.0)  # type: ignore[arg-type]
            works.append(CompileWorker(self.bus, self.post, patient, self.builds, Quiet()).run)
            scratch = self.folder / "scratch"
            works.append(BenchmarkWorker(self.bus, self.post, patient, self.benchmarks, Quiet(), scratch).run)
        for work in works:
            self.threads.append(threading.Thread(target=work, args=(self.stop,), daemon=True))
            self.threads[-1].start()
        return started

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        self.sql.close()

    def ask(self, name: str, strategy: str = "fast", *, post: Post | None = None, **change: Any) -> str:
        """A run asks for a kernel."""
        identity = identity_of(name, strategy)
        request = wire.KernelPrefetchRequest(
            **{
                "run": "run-1", "kernel_artifact_id": identity, "blueprint": name,
                "interface": interface_to_wire(VECTOR), "strategy": strategy_to_wire(strategy),
                "hardware": hardware_target(),
            } | change
        )  # fmt: skip
        (post or self.post).send(request, "weatherlight", identity)
        return identity

    def answer(self, topic: str = PREFETCH_READY) -> Any:
        """What the run is told next."""
        heard: list[Payload] = []
        taken = self.answers[topic].take(lambda payload, *_: heard.append(payload), PATIENCE)
        assert taken is Outcome.HANDLED
        return heard[0]

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, "did not happen"
            time.sleep(0.01)

    def state(self, identity: str) -> State:
        return self.sql.record(identity).state

    def sent(self, topic: str) -> int:
        """Messages waiting on a queue."""
        with self.bus.subscribe(topic, "tezzeret" if topic == COMPILE else "urabrask"):
            return sum(each.ready for each in self.bus.backlog() if each.topic == topic)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_a_run_asks_and_is_told(bench: Bench) -> None:
    bench.start()
    identity = bench.ask("low_rank")
    ready = bench.answer()
    assert (ready.run, ready.kernel_artifact_id, ready.location) == ("run-1", identity, "")
    record = bench.sql.record(identity)
    assert (record.state, ready.manifest_sha256) == (State.VALIDATED, record.report["manifest"])
    assert ready.size_bytes == sum(file.size for file in bench.sql.files(identity))
    assert bench.decided == [identity]
    latest = bench.bus.latest(CATALOG)[identity]
    update = bench.post.peek(CATALOG, latest.data)
    assert isinstance(update, wire.KernelCatalogUpdate)
    assert update.state == wire.KERNEL_STATE_VALIDATED
    # Asked for once more, by another run as well: answered at once, nothing is made.
    bench.ask("low_rank")
    assert bench.answer() == ready
    assert bench.builds.asked[identity] == 1


def test_many_runs_that_ask_for_one_kernel_have_it_made_once(bench: Bench) -> None:
    bench.start(workers=False)
    for run in range(5):
        bench.ask("low_rank", run=f"run-{run}")
    bench.until(lambda: sum(bench.bus.counters().acknowledged.values()) == 5)
    assert bench.sent(COMPILE) == 1
    bench.start(bench.dispatcher())
    assert bench.answer().run == "run-1", "each is told of its own only"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"blueprint": "nobody_s"}, "nobody_s"),
        ({"hardware": "x86_64-other"}, "give"),
        ({"interface": interface_to_wire(Interface(VECTOR.layout, 64))}, "give"),
    ],
)
def test_what_can_t_be_is_refused_with_the_reason(bench: Bench, change: dict[str, Any], cause: str) -> None:
    bench.start()
    identity = bench.ask("low_rank", **change)
    error = bench.answer(PREFETCH_ERROR)
    assert (error.kernel_artifact_id, error.retryable) == (identity, False)
    assert cause in error.cause
    assert bench.sql.records() == []


def test_a_rejected_kernel_is_an_error_with_its_cause(bench: Bench) -> None:
    bench.builds.plan = lambda request: BuildVerdict(request.artifact_id, "failed", "no")
    bench.start()
    bench.ask("low_rank")
    error = bench.answer(PREFETCH_ERROR)
    assert (error.cause, error.retryable) == ("build: failed: no", False)


def test_forged_and_replayed_requests_are_refused_and_counted(bench: Bench) -> None:
    outcomes: list[tuple[str, Outcome]] = []

    class Heard:
        def outcome(self, topic: str, outcome: Outcome) -> None:
            outcomes.append((topic, outcome))

        def built(self, strategy: str, seconds: float) -> None: ...

        def verdict(self, verdict: str) -> None: ...

    bench.start(bench.dispatcher(tally=Heard()), workers=False)
    bench.ask("low_rank", post=bench.thief)
    bench.until(lambda: [outcome for _, outcome in outcomes] == [Outcome.REFUSED] * 4)
    assert bench.sql.records() == []
    assert "no key" in bench.bus.dead_letters()[0].cause


def test_what_is_measured_against_a_baseline_waits_for_it(bench: Bench) -> None:
    """Nobody has asked for the baseline; it is made as well."""
    hold = threading.Event()
    bench.builds.plan = lambda request: None if request.strategy == "standard" else hold.wait(PATIENCE) and None
    bench.start()
    standard, baseline = bench.ask("low_rank", "standard"), identity_of("low_rank")
    bench.until(lambda: bench.state(standard) is State.BUILT)
    bench.until(lambda: bench.builds.asked[baseline] == 1)
    assert bench.benchmarks.asked == []
    hold.set()
    assert bench.answer().kernel_artifact_id == standard
    (asked,) = [each for each in bench.benchmarks.asked if each.artifact.name == standard]
    assert asked.baseline is not None
    assert asked.baseline.name == baseline
    bench.until(lambda: bench.state(baseline) is State.VALIDATED)


def test_a_rejected_baseline_takes_what_is_measured_against_it_along(bench: Bench) -> None:
    bench.builds.plan = lambda request: BuildVerdict(request.artifact_id, "failed", "no such instruction")
    baseline, standard = identity_of("low_rank"), identity_of("low_rank", "standard")
    for identity in (baseline, standard):
        parsed = ArtifactId.parse(identity)
        bench.sql.begin(parsed, "low_rank", VECTOR, parsed.strategy, parsed.hardware, parsed.toolchain)
    bench.sql.reject(baseline, "build: no such instruction")
    other = QuickBuilds(bench.folder / "aside").build(BuildRequest(CATALOGUE["low_rank"].ir, VECTOR, "standard"))
    assert other.path is not None
    bench.sql.built(standard, other.path)
    bench.start(workers=False)
    bench.ask("low_rank", "standard")
    error = bench.answer(PREFETCH_ERROR)
    assert "its baseline" in error.cause
    assert "no such instruction" in error.cause
    assert bench.state(standard) is State.REJECTED


def test_a_restless_machine_is_tried_three_times_each_time_it_is_asked(bench: Bench) -> None:
    bench.benchmarks.plan = lambda _: "noisy"
    bench.start()
    identity = bench.ask("low_rank")
    error = bench.answer(PREFETCH_ERROR)
    assert (error.retryable, len(bench.benchmarks.asked)) == (True, 3)
    assert bench.state(identity) is State.NOISY
    verdicts = iter(["noisy", "validated"])
    bench.benchmarks.plan = lambda _: next(verdicts)
    bench.ask("low_rank")
    assert bench.answer().kernel_artifact_id == identity
    assert len(bench.benchmarks.asked) == 5


def test_a_dispatcher_that_dies_is_replaced_by_one_that_asks_the_library(bench: Bench) -> None:
    """The first leaves one artifact in each unfinished state, and the bus has forgotten everything."""
    identities = [identity_of(name) for name in ("low_rank", "bottleneck")]
    third = identity_of("low_rank", interface=Interface(VECTOR.layout, 16))
    quick = QuickBuilds(bench.folder / "before")
    for identity, name, interface in (
        (identities[0], "low_rank", VECTOR), (identities[1], "bottleneck", VECTOR),
        (third, "low_rank", Interface(VECTOR.layout, 16)),
    ):  # fmt: skip
        parsed = ArtifactId.parse(identity)
        bench.sql.begin(parsed, name, interface, "fast", parsed.hardware, parsed.toolchain)
        if identity != identities[0]:
            path = quick.build(BuildRequest(CATALOGUE[name].ir, interface)).path
            assert path is not None
            bench.sql.built(identity, path)
    bench.sql.begin_benchmark(third)
    dispatcher = bench.start()
    assert dispatcher.resume(bench.stop) == 3
    bench.until(lambda: {bench.state(each) for each in (*identities, third)} == {State.VALIDATED})
    assert sum(bench.builds.asked.values()) == 1
    assert dispatcher.resume(bench.stop) == 0


def test_who_is_given_up_on_is_not_resumed(bench: Bench) -> None:
    bench.benchmarks.plan = lambda _: "noisy"
    dispatcher = bench.start()
    bench.ask("low_rank")
    bench.answer(PREFETCH_ERROR)
    assert dispatcher.resume(bench.stop) == 0


def test_a_dead_letter_rejects_its_artifact_once_and_replay_after_a_retry_works(bench: Bench) -> None:
    crash = threading.Event()
    crash.set()
    bench.builds.plan = lambda request: (
        BuildVerdict(request.artifact_id, "crashed", "SIGSEGV") if crash.is_set() else None
    )
    bench.start()
    identity = bench.ask("low_rank")
    error = bench.answer(PREFETCH_ERROR)
    assert "given up on after 4 deliveries: Again: build crashed: SIGSEGV (dead letter" in error.cause
    (letter,) = bench.bus.dead_letters(COMPILE)
    # A person has it tried again: the letter that is still there does not reject it again, nor does a new dispatcher.
    bench.sql.retry(identity, "a new compiler")
    bench.start(bench.dispatcher(), workers=False)
    time.sleep(0.3)
    assert bench.state(identity) is State.PENDING_BUILD
    # It dies once more: that is news.
    bench.bus.replay(letter.letter_id)
    bench.until(lambda: bench.state(identity) is State.REJECTED)
    assert len([change for change in bench.sql.history(identity) if change.target is State.REJECTED]) == 2
    crash.clear()
    bench.sql.retry(identity, "a new compiler")
    (letter,) = bench.bus.dead_letters(COMPILE)
    bench.bus.replay(letter.letter_id)
    bench.until(lambda: bench.state(identity) is State.VALIDATED)
    assert bench.bus.dead_letters() == []


def test_a_letter_that_nobody_trusted_has_sent_rejects_nothing(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    identity = bench.ask("low_rank")
    bench.start(workers=False)
    bench.until(lambda: bool(bench.sql.records()))
    forged = wire.KernelCompileRequest(kernel_artifact_id=identity)
    with bench.bus.subscribe(COMPILE, "tezzeret") as subscription:
        mine = subscription.receive(5)
        assert mine is not None
        bench.thief.send(forged, "urza", identity)
        while (message := subscription.receive(1)) is not None:
            subscription.nack(message, "refused")
            if message.last_delivery:
                break
    bench.until(lambda: "dead letter" in caplog.text)
    assert bench.state(identity) is State.PENDING_BUILD


def test_field_reports_reach_the_library_once(bench: Bench) -> None:
    bench.start(workers=False)
    report = FieldReport(
        "report-1", "run-1", "seed-1", "low_rank", identity_of("low_rank"), "CULLED", 0.5, 0.75, {"x": 1}
    )
    for _ in range(2):
        bench.post.send(field_report_to_wire(report), "tamiyo", "low_rank")
    bench.until(lambda: sum(bench.bus.counters().acknowledged.values()) == 2)
    assert bench.sql.field_reports() == [report]


def test_the_library_is_swept_now_and_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[float] = []
    sweep = bench.sql.sweep
    monkeypatch.setattr(bench.sql, "sweep", lambda seconds: (swept.append(seconds), sweep(seconds))[1])
    now = [0.0]
    bench.start(bench.dispatcher(sweep_seconds=100.0, grace_seconds=7.0, clock=lambda: now[0]), workers=False)
    bench.ask("low_rank")
    bench.until(lambda: bool(bench.sql.records()))
    assert swept == []
    now[0] = 101.0
    bench.until(lambda: swept == [7.0])


def test_a_library_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.library.away.set()
    bench.start()
    identity = bench.ask("low_rank")
    bench.until(lambda: bench.library.calls["begin"] > 0)
    bench.library.away.clear()
    assert bench.answer().kernel_artifact_id == identity
    assert bench.bus.dead_letters() == []


def test_a_verdict_that_is_only_said_decides_nothing(bench: Bench) -> None:
    """A worker's word is a hint to look in the library."""
    bench.start(workers=False)
    identity = bench.ask("low_rank")
    bench.until(lambda: bool(bench.sql.records()))
    bench.post.send(wire.KernelCertified(kernel_artifact_id=identity), "urabrask", identity)
    bench.post.send(wire.KernelRejected(kernel_artifact_id=identity, stage="build", cause="no"), "tezzeret", identity)
    bench.post.send(wire.KernelBuilt(kernel_artifact_id=identity), "tezzeret", identity)
    bench.until(lambda: sum(bench.bus.counters().acknowledged.values()) == 4)
    assert bench.state(identity) is State.PENDING_BUILD
    assert bench.decided == []
    assert bench.sent(BENCHMARK) == 0
