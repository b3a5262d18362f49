"""Kernels made by pools: asked for over the bus, found in the library, and never in the way of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from artifacts import KEYS, VECTOR
from esper.errors import BadInput, Interrupted
from esper.kernel import load_kernel
from esper.oona import BusFull
from esper.tezzeret import BuildVerdict
from esper.weatherlight.remote import RemoteKernels
from leyline.topics import PREFETCH_ERROR, PREFETCH_READY, PREFETCH_REQUEST, TopicKind
from pipelines import Pipeline, identity_of

NAMES = ["low_rank", "bottleneck"]


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    yield made
    made.close()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def kernels(pipeline: Pipeline, told: list[str]) -> Iterator[RemoteKernels]:
    with remote(pipeline, told) as made:
        yield made


def remote(pipeline: Pipeline, told: list[str], run: str = "run-7", **more: Any) -> RemoteKernels:
    more = {"recheck_seconds": 0.2} | more
    return RemoteKernels(
        pipeline.library, pipeline.bus, pipeline.post, KEYS, run, pipeline.folder / "cache", tell=told.append, **more  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_portfolio_is_made_by_the_pools_and_used(pipeline: Pipeline, kernels: RemoteKernels) -> None:
    pipeline.start()
    progress: list[tuple[int, int, str]] = []
    prepared = kernels.prepare([VECTOR], NAMES, ["fast", "standard"], lambda *said: progress.append(said))
    assert {(event["blueprint"], event["strategy"], event["state"]) for event in prepared.artifacts} == {
        (name, strategy, "Validated") for name in NAMES for strategy in ("fast", "standard")
    }
    assert prepared.outstanding == ()
    assert [said[:2] for said in progress] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert kernels.arrivals() == sorted(event["kernel"] for event in prepared.artifacts)
    assert kernels.arrivals() == []
    assert load_kernel(kernels.path(identity_of("low_rank")), kernels.keys).interface == VECTOR
    # The next run finds them there and asks nobody.
    asked = pipeline.bus.counters().published[TopicKind.WORK]
    with remote(pipeline, [], "run-8") as again:
        assert again.prepare([VECTOR], NAMES, ["fast", "standard"]).artifacts == prepared.artifacts
    assert pipeline.bus.counters().published[TopicKind.WORK] == asked


def test_announced_verdicts_are_looked_up_at_once(pipeline: Pipeline, told: list[str]) -> None:
    pipeline.start()
    with remote(pipeline, told, recheck_seconds=120.0) as kernels:
        kernels.prepare([VECTOR], NAMES, ["fast"])
        pipeline.builds.plan = lambda request: BuildVerdict(request.artifact_id, "failed", "no")
        prepared = kernels.prepare([VECTOR], ["mlp"], ["fast"])
    assert prepared.artifacts[0]["state"] == "Rejected"
    assert prepared.artifacts[0]["cause"] == "build: failed: no"


def test_a_request_returns_at_once_and_arrivals_tell(pipeline: Pipeline, kernels: RemoteKernels) -> None:
    asked = kernels.request([VECTOR], ["low_rank"], ["fast"])
    assert (asked.artifacts, asked.outstanding) == ((), (identity_of("low_rank"),))
    assert kernels.arrivals() == []
    pipeline.start()
    pipeline.until(lambda: kernels.arrivals() == [identity_of("low_rank")])


def test_a_restless_machine_is_an_answer_and_each_run_has_it_tried_anew(
    pipeline: Pipeline, kernels: RemoteKernels
) -> None:
    pipeline.benchmarks.plan = lambda _: "noisy"
    pipeline.start()
    for tries in (3, 6):
        with remote(pipeline, [], f"run-{tries}") as each:
            prepared = each.prepare([VECTOR], ["low_rank"], ["fast"])
        assert prepared.artifacts[0]["state"] == "Noisy"
        assert len(pipeline.benchmarks.asked) == tries


def test_a_library_that_is_away_stops_nothing_and_is_told_once(
    pipeline: Pipeline, kernels: RemoteKernels, told: list[str]
) -> None:
    kernels.request([VECTOR], ["low_rank"], ["fast"])
    pipeline.library.away.set()
    for _ in range(3):
        assert kernels.arrivals() == []
    assert [words for words in told if "library" in words] == [
        "library: the library is away; training goes on without new kernels"
    ]
    pipeline.library.away.clear()
    pipeline.start()
    pipeline.until(lambda: kernels.arrivals() == [identity_of("low_rank")])
    assert told[-1] == "library: back"


def test_preparing_waits_for_a_library_that_comes_back_and_can_be_given_up(
    pipeline: Pipeline, kernels: RemoteKernels
) -> None:
    pipeline.start()
    looks: list[int] = []

    def stop() -> bool:
        looks.append(1)
        if len(looks) == 1:
            pipeline.library.away.set()
        elif len(looks) == 5:
            pipeline.library.away.clear()
        return False

    assert kernels.prepare([VECTOR], ["low_rank"], ["fast"], stop=stop).artifacts[0]["state"] == "Validated"
    pipeline.stop.set()
    with pytest.raises(Interrupted, match="run it again"):
        kernels.prepare([VECTOR], ["bottleneck"], ["fast"], stop=lambda: True)


def test_a_bus_that_is_full_or_away_is_tried_again(
    pipeline: Pipeline, kernels: RemoteKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.start()
    publish, left = pipeline.bus.publish, [3]

    def full(topic: str, *arguments: Any, **more: Any) -> str:
        if topic == PREFETCH_REQUEST and left[0]:
            left[0] -= 1
            raise BusFull("full")
        return publish(topic, *arguments, **more)

    monkeypatch.setattr(pipeline.bus, "publish", full)
    assert kernels.prepare([VECTOR], ["low_rank"], ["fast"]).artifacts[0]["state"] == "Validated"
    assert left == [0]


def test_what_a_run_uses_is_held_and_given_up_at_the_end(pipeline: Pipeline, told: list[str]) -> None:
    pipeline.start()
    identity = identity_of("low_rank")
    with remote(pipeline, told, lease_seconds=6.0) as kernels:
        kernels.prepare([VECTOR], NAMES, ["fast"])
        assert pipeline.sql.leases() == []
        kernels.path(identity)
        (lease,) = pipeline.sql.leases()
        assert (lease.run, lease.artifact_id) == ("run-7", identity)
        until = lease.expires_at
        pipeline.until(lambda: pipeline.sql.leases()[0].expires_at > until)
        # While it is used, a sweep leaves it alone, even when it is retired.
        pipeline.sql.retire(identity, "a test")
        pipeline.sql.sweep(0.0)
        assert pipeline.sql.files(identity) != []
    assert pipeline.sql.leases() == []


def test_a_lease_that_can_t_be_had_stops_nothing(pipeline: Pipeline, kernels: RemoteKernels, told: list[str]) -> None:
    pipeline.start()
    kernels.prepare([VECTOR], ["low_rank"], ["fast"])
    identity = identity_of("low_rank")
    first = kernels.path(identity)
    pipeline.library.away.set()
    assert kernels.path(identity) == first
    pipeline.library.away.clear()


def test_closing_leaves_nothing_behind(pipeline: Pipeline) -> None:
    with remote(pipeline, [], "A run / of mine") as kernels:
        kernels.request([VECTOR], ["low_rank"], ["fast"])
        pipeline.until(lambda: len(names(pipeline)) == 2)
    assert names(pipeline) == []
    pipeline.library.away.set()
    remote(pipeline, []).close()
    kernels.close()


def test_runs_whose_names_look_alike_do_not_take_each_other_s_answers(pipeline: Pipeline) -> None:
    with remote(pipeline, [], "A run!") as one, remote(pipeline, [], "a-run-") as other:
        for each in (one, other):
            each.request([VECTOR], ["low_rank"], ["fast"])
        pipeline.until(lambda: len(set(names(pipeline))) == 2)
        assert all(name.startswith("run-a-run--") for name in names(pipeline))


def names(pipeline: Pipeline) -> list[str]:
    """Subscriptions of runs, but for the test's own."""
    topics = (PREFETCH_READY, PREFETCH_ERROR)
    return [
        each.subscription for each in pipeline.bus.backlog() if each.topic in topics and each.subscription != "run-1"
    ]


def test_an_unknown_blueprint_is_refused_before_anybody_is_asked(pipeline: Pipeline, kernels: RemoteKernels) -> None:
    with pytest.raises(BadInput, match="bottleneck"):
        kernels.prepare([VECTOR], ["botleneck"], ["fast"])
    assert sum(pipeline.bus.counters().published.values()) == 0
    assert kernels.status() == []
