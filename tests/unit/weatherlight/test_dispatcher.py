"""The dispatcher: artifacts on their way, verdicts to those who asked, and nothing kept that matters."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts import VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel.hardware import hardware_target
from esper.oona import Outcome
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urza import State
from esper.weatherlight.post import interface_to_wire
from hands import QuickBuilds
from leyline.identity import ArtifactId
from leyline.interface import Interface
from leyline.topics import BENCHMARK, CATALOG, COMPILE, DAY, PREFETCH_ERROR, TOPICS, TopicKind, pool_subscription
from leyline.v1 import kernels_pb2 as wire
from leyline.v1 import telemetry_pb2 as telemetry
from pipelines import PATIENCE, Pipeline, identity_of


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    yield made
    made.close()


def test_a_run_asks_and_is_told(pipeline: Pipeline) -> None:
    pipeline.start()
    identity = pipeline.ask("low_rank")
    ready = pipeline.answer()
    assert (ready.run, ready.kernel_artifact_id) == ("run-1", identity)
    record = pipeline.sql.record(identity)
    assert (record.state, ready.manifest_sha256) == (State.VALIDATED, record.report["manifest"])
    assert ready.size_bytes == sum(file.size for file in pipeline.sql.files(identity))
    assert pipeline.decided == [identity]
    latest = pipeline.bus.latest(CATALOG)[identity]
    update = pipeline.post.peek(CATALOG, latest.data)
    assert isinstance(update, wire.KernelCatalogUpdate)
    assert update.state == wire.KERNEL_STATE_VALIDATED
    # Asked for once more, by another run as well: answered at once, nothing is made.
    pipeline.ask("low_rank")
    assert pipeline.answer() == ready
    assert pipeline.builds.asked[identity] == 1


def test_many_runs_that_ask_for_one_kernel_have_it_made_once(pipeline: Pipeline) -> None:
    pipeline.start(workers=False)
    for run in range(5):
        pipeline.ask("low_rank", run=f"run-{run}")
    pipeline.until(lambda: sum(pipeline.bus.counters().acknowledged.values()) == 5)
    assert pipeline.sent(COMPILE) == 1
    pipeline.work()
    assert pipeline.answer().run == "run-1", "each is told of its own only"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"blueprint": "nobody_s"}, "nobody_s"),
        ({"hardware": "x86_64-other"}, "give"),
        ({"interface": interface_to_wire(Interface(VECTOR.layout, 64))}, "give"),
    ],
)
def test_what_can_t_be_is_refused_with_the_reason(pipeline: Pipeline, change: dict[str, Any], cause: str) -> None:
    pipeline.start()
    identity = pipeline.ask("low_rank", **change)
    error = pipeline.answer(PREFETCH_ERROR)
    assert (error.kernel_artifact_id, error.retryable) == (identity, False)
    assert cause in error.cause
    assert pipeline.sql.records() == []


def test_a_rejected_kernel_is_an_error_with_its_cause(pipeline: Pipeline) -> None:
    pipeline.builds.plan = lambda request: BuildVerdict(request.artifact_id, "failed", "no")
    pipeline.start()
    pipeline.ask("low_rank")
    error = pipeline.answer(PREFETCH_ERROR)
    assert (error.cause, error.retryable) == ("build: failed: no", False)


def test_forged_and_replayed_requests_are_refused_and_counted(pipeline: Pipeline) -> None:
    outcomes: list[tuple[str, Outcome]] = []

    class Heard:
        def outcome(self, topic: str, outcome: Outcome) -> None:
            outcomes.append((topic, outcome))

        def built(self, strategy: str, seconds: float) -> None: ...

        def verdict(self, verdict: str) -> None: ...

    pipeline.start(pipeline.dispatcher(tally=Heard()), workers=False)
    pipeline.ask("low_rank", post=pipeline.thief)
    pipeline.until(lambda: [outcome for _, outcome in outcomes] == [Outcome.REFUSED] * 4)
    assert pipeline.sql.records() == []
    assert "no key" in pipeline.bus.dead_letters()[0].cause


def test_what_is_measured_against_a_baseline_waits_for_it(pipeline: Pipeline) -> None:
    """Nobody has asked for the baseline; it is made as well."""
    hold = threading.Event()
    pipeline.builds.plan = lambda request: None if request.strategy == "standard" else hold.wait(PATIENCE) and None
    pipeline.start()
    standard, baseline = pipeline.ask("low_rank", "standard"), identity_of("low_rank")
    pipeline.until(lambda: pipeline.state(standard) is State.BUILT)
    pipeline.until(lambda: pipeline.builds.asked[baseline] == 1)
    assert pipeline.benchmarks.asked == []
    hold.set()
    assert pipeline.answer().kernel_artifact_id == standard
    (asked,) = [each for each in pipeline.benchmarks.asked if each.artifact.name == standard]
    assert asked.baseline is not None
    assert asked.baseline.name == baseline
    pipeline.until(lambda: pipeline.state(baseline) is State.VALIDATED)


def test_a_rejected_baseline_takes_what_is_measured_against_it_along(pipeline: Pipeline) -> None:
    pipeline.builds.plan = lambda request: BuildVerdict(request.artifact_id, "failed", "no such instruction")
    baseline, standard = identity_of("low_rank"), identity_of("low_rank", "standard")
    for identity in (baseline, standard):
        parsed = ArtifactId.parse(identity)
        pipeline.sql.begin(parsed, "low_rank", VECTOR, parsed.strategy, parsed.hardware, parsed.toolchain)
    pipeline.sql.reject(baseline, "build: no such instruction")
    other = QuickBuilds(pipeline.folder / "aside").build(BuildRequest(CATALOGUE["low_rank"].ir, VECTOR, "standard"))
    assert other.path is not None
    pipeline.sql.built(standard, other.path)
    pipeline.start(workers=False)
    pipeline.ask("low_rank", "standard")
    error = pipeline.answer(PREFETCH_ERROR)
    assert "its baseline" in error.cause
    assert "no such instruction" in error.cause
    assert pipeline.state(standard) is State.REJECTED


def test_a_restless_machine_is_tried_three_times_each_time_it_is_asked(pipeline: Pipeline) -> None:
    pipeline.benchmarks.plan = lambda _: "noisy"
    pipeline.start()
    identity = pipeline.ask("low_rank")
    error = pipeline.answer(PREFETCH_ERROR)
    assert (error.retryable, len(pipeline.benchmarks.asked)) == (True, 3)
    assert pipeline.state(identity) is State.NOISY
    verdicts = iter(["noisy", "validated"])
    pipeline.benchmarks.plan = lambda _: next(verdicts)
    pipeline.ask("low_rank")
    assert pipeline.answer().kernel_artifact_id == identity
    assert len(pipeline.benchmarks.asked) == 5


def test_a_dispatcher_that_dies_is_replaced_by_one_that_asks_the_library(pipeline: Pipeline) -> None:
    """The first leaves one artifact in each unfinished state, and the bus has forgotten everything."""
    identities = [identity_of(name) for name in ("low_rank", "bottleneck")]
    third = identity_of("low_rank", interface=Interface(VECTOR.layout, 16))
    quick = QuickBuilds(pipeline.folder / "before")
    for identity, name, interface in (
        (identities[0], "low_rank", VECTOR), (identities[1], "bottleneck", VECTOR),
        (third, "low_rank", Interface(VECTOR.layout, 16)),
    ):  # fmt: skip
        parsed = ArtifactId.parse(identity)
        pipeline.sql.begin(parsed, name, interface, "fast", parsed.hardware, parsed.toolchain)
        if identity != identities[0]:
            path = quick.build(BuildRequest(CATALOGUE[name].ir, interface)).path
            assert path is not None
            pipeline.sql.built(identity, path)
    pipeline.sql.begin_benchmark(third)
    dispatcher = pipeline.start()
    assert dispatcher.resume(pipeline.stop) == 3
    pipeline.until(lambda: {pipeline.state(each) for each in (*identities, third)} == {State.VALIDATED})
    assert sum(pipeline.builds.asked.values()) == 1
    assert dispatcher.resume(pipeline.stop) == 0


def test_what_somebody_entered_without_a_word_is_found_and_made(pipeline: Pipeline) -> None:
    identity = identity_of("low_rank")
    pipeline.start(pipeline.dispatcher(round_seconds=0.2))
    parsed = ArtifactId.parse(identity)
    pipeline.sql.register_blueprint("low_rank", CATALOGUE["low_rank"].ir, 0.2)
    pipeline.sql.begin(parsed, "low_rank", VECTOR, "fast", parsed.hardware, parsed.toolchain)
    pipeline.until(lambda: pipeline.state(identity) is State.VALIDATED)
    assert sum(pipeline.builds.asked.values()) == 1


def test_what_no_pool_took_while_the_bus_kept_it_is_sent_again(pipeline: Pipeline) -> None:
    now = [0.0]
    dispatcher = pipeline.start(pipeline.dispatcher(clock=lambda: now[0]), workers=False)
    identity = pipeline.ask("low_rank", target="vax_780")

    def published() -> int:
        return pipeline.bus.counters().published[TopicKind.WORK]

    pipeline.until(lambda: published() == 2)
    for passed, sent in ((0.0, 0), (7 * DAY - 1.0, 0), (1.0, 1), (1.0, 0)):
        before, now[0] = published(), now[0] + passed
        assert dispatcher.resume(pipeline.stop) == 1
        assert published() == before + sent, passed
    assert pipeline.state(identity) is State.PENDING_BUILD


def test_who_is_given_up_on_is_not_resumed(pipeline: Pipeline) -> None:
    pipeline.benchmarks.plan = lambda _: "noisy"
    dispatcher = pipeline.start()
    pipeline.ask("low_rank")
    pipeline.answer(PREFETCH_ERROR)
    assert dispatcher.resume(pipeline.stop) == 0


def test_who_is_given_up_on_is_tried_anew_after_rests_that_grow(pipeline: Pipeline) -> None:
    now = [time.time()]
    pipeline.benchmarks.plan = lambda _: "noisy"
    dispatcher = pipeline.start(pipeline.dispatcher(rest_seconds=1000.0, wall=lambda: now[0]))
    identity = pipeline.ask("low_rank")
    pipeline.answer(PREFETCH_ERROR)
    for rest in (1000.0, 2000.0, 4000.0):
        so_far = len(pipeline.benchmarks.asked)
        now[0] = time.time() + rest - 60
        assert dispatcher.resume(pipeline.stop) == 0, rest
        now[0] = time.time() + rest + 60
        assert dispatcher.resume(pipeline.stop) == 1, rest
        pipeline.until(lambda so_far=so_far: len(pipeline.benchmarks.asked) == so_far + 3)
        pipeline.until(lambda: pipeline.state(identity) is State.NOISY)
    now[0] = time.time() + 1e9
    pipeline.benchmarks.plan = lambda _: "validated"
    assert dispatcher.resume(pipeline.stop) == 1
    pipeline.until(lambda: pipeline.state(identity) is State.VALIDATED)


def test_a_dead_letter_rejects_its_artifact_once_and_replay_after_a_retry_works(pipeline: Pipeline) -> None:
    crash = threading.Event()
    crash.set()
    pipeline.builds.plan = lambda request: (
        BuildVerdict(request.artifact_id, "crashed", "SIGSEGV") if crash.is_set() else None
    )
    pipeline.start()
    identity = pipeline.ask("low_rank")
    error = pipeline.answer(PREFETCH_ERROR)
    assert "given up on after 4 deliveries: Again: build crashed: SIGSEGV (dead letter" in error.cause
    (letter,) = pipeline.bus.dead_letters(COMPILE)
    # A person has it tried again: the letter that is still there does not reject it again, nor does a new dispatcher.
    pipeline.sql.retry(identity, "a new compiler")
    pipeline.start(pipeline.dispatcher(), workers=False)
    time.sleep(0.3)
    assert pipeline.state(identity) is State.PENDING_BUILD
    # It dies once more: that is news.
    pipeline.bus.replay(letter.letter_id)
    pipeline.until(lambda: pipeline.state(identity) is State.REJECTED)
    assert len([change for change in pipeline.sql.history(identity) if change.target is State.REJECTED]) == 2
    crash.clear()
    pipeline.sql.retry(identity, "a new compiler")
    (letter,) = pipeline.bus.dead_letters(COMPILE)
    pipeline.bus.replay(letter.letter_id)
    pipeline.until(lambda: pipeline.state(identity) is State.VALIDATED)
    assert pipeline.bus.dead_letters() == []


def test_a_letter_that_nobody_trusted_has_sent_rejects_nothing(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    identity = pipeline.ask("low_rank")
    pipeline.start(workers=False)
    pipeline.until(lambda: bool(pipeline.sql.records()))
    forged = wire.KernelCompileRequest(kernel_artifact_id=identity)
    target = hardware_target()
    with pipeline.bus.subscribe(COMPILE, pool_subscription(TOPICS[COMPILE], target), hardware=target) as subscription:
        mine = subscription.receive(5)
        assert mine is not None
        pipeline.thief.send(forged, "urza", identity)
        while (message := subscription.receive(1)) is not None:
            subscription.nack(message, "refused")
            if message.last_delivery:
                break
    pipeline.until(lambda: "dead letter" in caplog.text)
    assert pipeline.state(identity) is State.PENDING_BUILD


def test_field_reports_reach_the_library_once(pipeline: Pipeline) -> None:
    pipeline.start(workers=False)
    report = telemetry.FieldReport(
        report_id="report-1", run="run-1", seed_id="seed-1", blueprint="low_rank", outcome="OUTCOME_CULLED",
        kernel_artifact_id=identity_of("low_rank"), metric="accuracy", metric_before=0.5, metric_after=0.75,
        measurements={"x": 1},
    )  # fmt: skip
    for _ in range(2):
        pipeline.post.send(report, "tamiyo", "low_rank")
    pipeline.until(lambda: sum(pipeline.bus.counters().acknowledged.values()) == 2)
    (kept,) = pipeline.sql.field_reports()
    assert (kept.message_id, kept.outcome, kept.pre_metric, kept.post_metric) == ("report-1", "CULLED", 0.5, 0.75)
    assert dict(kept.measurements) == {"x": 1}


def test_the_library_is_swept_now_and_then(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[float] = []
    sweep = pipeline.sql.sweep
    monkeypatch.setattr(pipeline.sql, "sweep", lambda seconds: (swept.append(seconds), sweep(seconds))[1])
    now = [0.0]
    pipeline.start(pipeline.dispatcher(sweep_seconds=100.0, grace_seconds=7.0, clock=lambda: now[0]), workers=False)
    pipeline.ask("low_rank")
    pipeline.until(lambda: bool(pipeline.sql.records()))
    assert swept == []
    now[0] = 101.0
    pipeline.until(lambda: swept == [7.0])


def test_a_library_that_is_away_is_waited_for(pipeline: Pipeline) -> None:
    pipeline.library.away.set()
    pipeline.start()
    identity = pipeline.ask("low_rank")
    pipeline.until(lambda: pipeline.library.calls["begin"] > 0)
    pipeline.library.away.clear()
    assert pipeline.answer().kernel_artifact_id == identity
    assert pipeline.bus.dead_letters() == []


def test_a_verdict_that_is_only_said_decides_nothing(pipeline: Pipeline) -> None:
    """A worker's word is a hint to look in the library."""
    pipeline.start(workers=False)
    identity = pipeline.ask("low_rank")
    pipeline.until(lambda: bool(pipeline.sql.records()))
    pipeline.post.send(wire.KernelCertified(kernel_artifact_id=identity), "urabrask", identity)
    pipeline.post.send(
        wire.KernelRejected(kernel_artifact_id=identity, stage="build", cause="no"), "tezzeret", identity
    )
    pipeline.post.send(wire.KernelBuilt(kernel_artifact_id=identity), "tezzeret", identity)
    pipeline.until(lambda: sum(pipeline.bus.counters().acknowledged.values()) == 4)
    assert pipeline.state(identity) is State.PENDING_BUILD
    assert pipeline.decided == []
    assert pipeline.sent(BENCHMARK) == 0
