"""Workers: what they do with one message, and that doing it again does no harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message as Payload

from artifacts import VECTOR
from esper.errors import LibraryError
from esper.karn.catalogue import CATALOGUE
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.oona import InProcessBus
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urabrask import BenchmarkRequest
from esper.urza import AccessDenied, LibraryUnavailable, SqlLibrary, State
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post, interface_to_wire, strategy_to_wire
from esper.weatherlight.quiet import Quiet
from esper.weatherlight.workers import BenchmarkWorker, CompileWorker
from hands import AwayLibrary, QuickBenchmarks, QuickBuilds
from leyline.identity import ArtifactId
from leyline.topics import BENCHMARK, CATALOG, COMPILE, TOPICS, pool_subscription
from leyline.v1 import kernels_pb2 as wire

NAME = "low_rank"
IR = CATALOGUE[NAME].ir


def request_for(identity: str) -> wire.KernelCompileRequest:
    return wire.KernelCompileRequest(
        kernel_artifact_id=identity, blueprint=NAME, blueprint_ir=IR.to_json(), interface=interface_to_wire(VECTOR),
        strategy=strategy_to_wire("fast"),
    )  # fmt: skip


class Bench:
    """A library with one wanted artifact, a bus, and workers that take what is on it."""

    def __init__(self, folder: Path) -> None:
        self.sql = SqlLibrary.open(folder / "library")
        self.library = AwayLibrary(self.sql)
        self.bus = InProcessBus()
        self.post = Post.in_process(self.bus)
        self.builds, self.benchmarks = QuickBuilds(folder / "built"), QuickBenchmarks()
        self.folder = folder
        self.catalog = self.post.inbox(self.bus.subscribe(CATALOG, "urza"))
        for topic in (COMPILE, BENCHMARK):
            # There before anything is sent, so that what waits for a worker can be seen.
            name, target = pool_subscription(TOPICS[topic], hardware_target()), hardware_target()
            self.bus.subscribe(topic, name, hardware=target).close()
        self.sql.register_blueprint(NAME, IR, 0.3)
        self.identity = self.want("fast")

    def want(self, strategy: str) -> str:
        identity = ArtifactId.make(IR.digest(), VECTOR, hardware_target(), strategy, toolchain_hash())
        self.sql.begin(identity, NAME, VECTOR, strategy, identity.hardware, toolchain_hash())
        return str(identity)

    def compiler(self, patience: float = 5.0, **more: Any) -> CompileWorker:
        patient = PatientLibrary(self.library, patience)  # type: ignore[arg-type]
        return CompileWorker(self.bus, self.post, patient, self.builds, Quiet(), **more)

    def benchmarker(self, patience: float = 5.0, **more: Any) -> BenchmarkWorker:
        patient = PatientLibrary(self.library, patience)  # type: ignore[arg-type]
        return BenchmarkWorker(
            self.bus, self.post, patient, self.benchmarks, Quiet(), self.folder / "scratch", **more
        )  # fmt: skip

    def said(self) -> list[Payload]:
        """What was said of artifacts since this was last asked."""
        heard: list[Payload] = []
        while self.catalog.take(lambda payload, *_: heard.append(payload), 0) is not None:
            continue
        return heard

    def work(self, worker: CompileWorker | BenchmarkWorker, *requests: Payload) -> None:
        """Let a worker take these, until it has answered for all, for good."""
        for each in requests:
            self.post.send(each, "urza", "key")
        stop, raised = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                worker.run(stop)
            except BaseException as error:  # noqa: BLE001 - the test raises it
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 60
        while thread.is_alive() and any(each.ready + each.open for each in self.bus.backlog() if each.topic != CATALOG):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        if raised:
            raise raised[0]

    def letters(self, topic: str) -> list[str]:
        return [letter.cause for letter in self.bus.dead_letters(topic)]

    def build(self) -> None:
        self.work(self.compiler(), request_for(self.identity))
        self.said()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.sql.close()


def test_a_build_is_in_the_library_before_it_is_said_and_not_done_again(bench: Bench) -> None:
    bench.work(bench.compiler(), request_for(bench.identity))
    assert bench.sql.record(bench.identity).state is State.BUILT
    (built,) = bench.said()
    assert isinstance(built, wire.KernelBuilt)
    assert (built.kernel_artifact_id, built.size_bytes) == (bench.identity, 1)
    assert len(built.manifest_sha256) == 64
    assert list((bench.folder / "built").glob("*/manifest.json")) == [], "its own copy is removed"
    # Asked again by a message of its own, as after a restart: nothing is built, but it is said again.
    bench.work(bench.compiler(), request_for(bench.identity), request_for(bench.identity))
    assert bench.builds.asked[bench.identity] == 1
    assert [type(each) for each in bench.said()] == [wire.KernelBuilt, wire.KernelBuilt]
    assert [change.target for change in bench.sql.history(bench.identity)] == [State.PENDING_BUILD, State.BUILT]


def test_who_was_built_elsewhere_meanwhile_is_said_to_be_built(bench: Bench, tmp_path: Path) -> None:
    def elsewhere(request: BuildRequest) -> None:
        # Other bytes under the same id, as another signing key gives.
        other = QuickBuilds(tmp_path / "elsewhere").build(request)
        assert other.path is not None
        (other.path / "signatures" / "built.json").write_bytes(b'{"purpose":"built"}')
        bench.sql.built(request.artifact_id, other.path)

    bench.builds.plan = elsewhere
    bench.work(bench.compiler(), request_for(bench.identity))
    assert bench.letters(COMPILE) == []
    assert [type(each) for each in bench.said()] == [wire.KernelBuilt]


def test_a_build_that_fails_is_a_verdict_and_one_that_crashes_comes_again(bench: Bench) -> None:
    endings = iter(["crashed", "memory", "failed"])
    bench.builds.plan = lambda request: BuildVerdict(request.artifact_id, next(endings), "why")  # type: ignore[arg-type]
    bench.work(bench.compiler(), request_for(bench.identity))
    assert bench.builds.asked[bench.identity] == 3
    record = bench.sql.record(bench.identity)
    assert (record.state, record.cause) == (State.REJECTED, "build: failed: why")
    (said,) = bench.said()
    assert isinstance(said, wire.KernelRejected)
    assert (said.stage, said.noisy, said.cause) == ("build", False, "build: failed: why")


def test_what_always_crashes_is_given_up_on_with_its_cause(bench: Bench) -> None:
    bench.builds.plan = lambda request: BuildVerdict(request.artifact_id, "crashed", "SIGSEGV")
    bench.work(bench.compiler(), request_for(bench.identity))
    assert bench.builds.asked[bench.identity] == 4
    assert bench.letters(COMPILE) == ["Again: build crashed: SIGSEGV"]
    assert bench.sql.record(bench.identity).state is State.PENDING_BUILD, "rejecting it is the dispatcher's"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"blueprint_ir": b"{}"}, "BlueprintError"),
        ({"strategy": wire.STRATEGY_UNSPECIFIED}, "ValueError: strategy 0"),
        ({"interface": wire.KernelInterface()}, "InterfaceError"),
        ({"blueprint_ir": CATALOGUE["bottleneck"].ir.to_json()}, "this machine would build"),
        ({"kernel_artifact_id": "../../etc"}, "InvalidEntry"),
        ({"kernel_artifact_id": f"{'0' * 16}-{hardware_target()}-fast-{'0' * 8}"}, "UnknownArtifact"),
    ],
)
def test_a_request_that_makes_no_sense_ends_as_a_dead_letter(bench: Bench, change: dict[str, Any], cause: str) -> None:
    request = request_for(bench.identity)
    for name, value in change.items():
        if name == "interface":
            request.interface.CopyFrom(value)
        else:
            setattr(request, name, value)
    bench.work(bench.compiler(), request, request_for(bench.identity))
    (letter,) = bench.letters(COMPILE)
    assert cause in letter
    assert bench.sql.record(bench.identity).state is State.BUILT, "the next one is not held up"


ELSEWHERE = f"{'0' * 16}-vax_780-fast-{'0' * 8}"


def test_what_is_for_other_hardware_is_acknowledged_and_nothing_is_done(bench: Bench) -> None:
    """Also when the key does not tell: then the payload does, which is verified."""
    for worker, topic, request in (
        (bench.compiler(), COMPILE, request_for(ELSEWHERE)),
        (bench.benchmarker(), BENCHMARK, wire.KernelBenchmarkRequest(kernel_artifact_id=ELSEWHERE)),
    ):
        bench.work(worker, request)
        bench.post.send(request, "urza", ELSEWHERE)
        bench.work(bench.compiler(), request_for(bench.identity))
        assert bench.letters(topic) == []
    assert list(bench.builds.asked) == [bench.identity]
    assert bench.benchmarks.asked == []
    assert [type(each) for each in bench.said()] == [wire.KernelBuilt, wire.KernelBuilt]
    assert not sum(bench.bus.counters().redelivered.values())


def test_what_only_claims_to_be_for_other_hardware_is_refused_before_that_is_believed(bench: Bench) -> None:
    """A forged message is a dead letter, whatever it says it is for."""
    thief = Post.in_process(bench.bus)
    thief.send(request_for(ELSEWHERE), "urza", "no artifact's id")
    bench.work(bench.compiler(), request_for(bench.identity))
    (letter,) = bench.letters(COMPILE)
    assert letter.startswith("ForgedEnvelope: ")


def test_what_is_not_the_message_s_fault_fails_the_thread(bench: Bench) -> None:
    def broken(request: BuildRequest) -> BuildVerdict:
        raise RuntimeError("the disk is gone")

    bench.builds.plan = broken
    with pytest.raises(RuntimeError, match="the disk is gone"):
        bench.work(bench.compiler(), request_for(bench.identity))


@pytest.mark.parametrize("error", [LibraryUnavailable("away"), AccessDenied("the token has run out")])
def test_a_library_that_is_away_is_waited_for(bench: Bench, error: LibraryError) -> None:
    bench.library.error = error
    bench.library.away.set()
    timer = threading.Timer(0.7, bench.library.away.clear)
    timer.start()
    bench.work(bench.compiler(), request_for(bench.identity))
    assert bench.library.calls["record"] >= 1
    assert bench.sql.record(bench.identity).state is State.BUILT
    assert bench.builds.asked[bench.identity] == 1


def test_a_library_that_stays_away_fails_the_thread(bench: Bench) -> None:
    bench.library.away.set()
    with pytest.raises(LibraryUnavailable):
        bench.work(bench.compiler(patience=0.3), request_for(bench.identity))


def test_work_in_hand_is_finished_or_given_up(bench: Bench) -> None:
    building, stop = threading.Event(), threading.Event()

    def slow(request: BuildRequest) -> None:
        building.set()
        assert stop.wait(10)

    bench.builds.plan = slow
    for worker, state, said in (
        (bench.compiler(), State.PENDING_BUILD, []),
        (bench.compiler(abandon=threading.Event()), State.BUILT, [wire.KernelBuilt]),
    ):
        bench.post.send(request_for(bench.identity), "urza", "key")
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        assert building.wait(10)
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert bench.sql.record(bench.identity).state is state
        assert [type(each) for each in bench.said()] == said
        stop.clear()
        building.clear()


def test_an_artifact_is_measured_against_its_baseline_and_certified_in_the_library(bench: Bench) -> None:
    bench.build()
    standard = bench.want("standard")
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity, timeout_seconds=7))
    record = bench.sql.record(bench.identity)
    assert (record.state, record.ratio) == (State.VALIDATED, 0.8)
    (asked,) = bench.benchmarks.asked
    assert (asked.prior_risk, asked.timeout, asked.baseline) == (0.3, 7.0, None)
    (said,) = bench.said()
    assert isinstance(said, wire.KernelCertified)
    assert (said.measurements.ratio, list(said.tags)) == (0.8, ["high_speed"])
    assert said.report_sha256 == bench.sql.reports(bench.identity)[0].digest
    assert list((bench.folder / "scratch").iterdir()) == []
    # Said again, not done again; and one that is not built is no work yet.
    bench.work(
        bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity),
        wire.KernelBenchmarkRequest(kernel_artifact_id=standard),
    )  # fmt: skip
    assert len(bench.benchmarks.asked) == 1
    assert [type(each) for each in bench.said()] == [wire.KernelCertified]
    assert bench.letters(BENCHMARK) == ["Again: is not built yet"]


@pytest.mark.parametrize(("verdict", "state"), [("rejected", State.REJECTED), ("noisy", State.NOISY)])
def test_other_verdicts_are_in_the_library_with_their_report(bench: Bench, verdict: str, state: State) -> None:
    bench.build()
    bench.benchmarks.plan = lambda _: verdict
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity))
    record = bench.sql.record(bench.identity)
    assert (record.state, record.cause) == (state, f"benchmark: said to be {verdict}")
    assert bench.sql.reports(bench.identity)[0].verdict is state
    (said,) = bench.said()
    assert isinstance(said, wire.KernelRejected)
    assert said.noisy is (verdict == "noisy")


@pytest.mark.parametrize("mine", ["validated", "rejected", "noisy"])
def test_a_verdict_that_comes_second_does_not_change_the_first(bench: Bench, tmp_path: Path, mine: str) -> None:
    """Two workers measure one artifact, as after a message that was sent twice."""
    bench.build()

    def elsewhere(identity: str) -> str:
        copy = bench.sql.fetch(identity, tmp_path / "elsewhere")
        other = QuickBenchmarks()
        other.numbers["ratio"] = 0.7
        report = other.certify(BenchmarkRequest(copy, prior_risk=0.5))
        bench.sql.certify(identity, report.body, copy)
        return mine

    bench.benchmarks.plan = elsewhere
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity))
    assert bench.letters(BENCHMARK) == []
    record = bench.sql.record(bench.identity)
    assert (record.state, record.ratio) == (State.VALIDATED, 0.7)
    assert [report.verdict for report in bench.sql.reports(bench.identity)] == [State.VALIDATED]
    assert [type(each) for each in bench.said()] == [wire.KernelCertified]


def test_a_benchmark_that_crashes_comes_again(bench: Bench) -> None:
    bench.build()
    verdicts = iter(["crashed", "validated"])
    bench.benchmarks.plan = lambda _: next(verdicts)
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity))
    assert bench.sql.record(bench.identity).state is State.VALIDATED


def test_files_that_are_lost_are_a_verdict(bench: Bench) -> None:
    bench.build()
    for blob in (bench.folder / "library" / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity))
    record = bench.sql.record(bench.identity)
    assert record.state is State.REJECTED
    assert "files are lost" in record.cause


def test_reports_of_comparable_artifacts_are_shown_to_the_benchmark(bench: Bench) -> None:
    bench.build()
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=bench.identity))
    ir = CATALOGUE["bottleneck"].ir
    bench.sql.register_blueprint("bottleneck", ir, 0.1)
    second = ArtifactId.make(ir.digest(), VECTOR, hardware_target(), "fast", toolchain_hash())
    bench.sql.begin(second, "bottleneck", VECTOR, "fast", second.hardware, toolchain_hash())
    request = request_for(str(second))
    request.blueprint_ir = ir.to_json()
    bench.work(bench.compiler(), request)
    bench.work(bench.benchmarker(), wire.KernelBenchmarkRequest(kernel_artifact_id=str(second)))
    assert [len(peers) for peers in bench.benchmarks.peers] == [0, 1]
    assert bench.benchmarks.peers[1][0]["ratio"] == 0.8
