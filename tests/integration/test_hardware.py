"""Two hardware targets in one installation, on every message bus: each kernel is made once, by who is meant."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import buses
import elsewhere
from esper.kernel.hardware import hardware_target
from esper.urza import State
from leyline.topics import BENCHMARK, COMPILE
from pipelines import Pipeline

VAX = "vax_780-fpa"
NAMES = ("low_rank", "bottleneck")


@pytest.fixture(params=sorted(buses.ADAPTERS))
def pipeline(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    elsewhere.pretend(monkeypatch)
    bus = buses.open_with_topics_of_runs(request.param)
    made = Pipeline(tmp_path, bus)
    yield made
    made.close()
    bus.close()


def certified(pipeline: Pipeline, identities: list[str]) -> bool:
    return {pipeline.state(each) for each in identities} == {State.VALIDATED}


def nothing_was_handed_back(pipeline: Pipeline) -> bool:
    return not pipeline.bus.dead_letters() and not any(pipeline.bus.counters().redelivered.values())


def test_each_kernel_is_made_once_by_a_worker_of_its_hardware(pipeline: Pipeline) -> None:
    pipeline.start()
    builds, benchmarks = pipeline.work_for(VAX)
    ours = [pipeline.ask(name) for name in NAMES]
    theirs = [pipeline.ask(name, target=VAX) for name in NAMES]
    pipeline.until(lambda: certified(pipeline, ours + theirs))
    assert dict(pipeline.builds.asked) == dict.fromkeys(ours, 1)
    assert dict(builds.asked) == dict.fromkeys(theirs, 1)
    assert (len(pipeline.benchmarks.asked), len(benchmarks.asked)) == (2, 2)
    assert nothing_was_handed_back(pipeline)
    assert {each.target for identity in theirs for each in pipeline.sql.history(identity)} >= {State.BUILT}
    waiting = {
        each.subscription: each.ready + each.open
        for each in pipeline.bus.backlog()
        if each.topic in (COMPILE, BENCHMARK)
    }
    target = hardware_target()
    assert set(waiting) == {f"{role}-{each}" for role in ("tezzeret", "urabrask") for each in (VAX, target)}


def test_work_from_before_there_was_a_pool_of_its_hardware_is_found_by_the_first(pipeline: Pipeline) -> None:
    pipeline.start()
    theirs = [pipeline.ask(name, target=VAX) for name in NAMES]
    ours = [pipeline.ask(name) for name in NAMES]
    pipeline.until(lambda: certified(pipeline, ours))
    assert {pipeline.state(each) for each in theirs} == {State.PENDING_BUILD}
    assert nothing_was_handed_back(pipeline)
    builds, _ = pipeline.work_for(VAX)
    pipeline.until(lambda: certified(pipeline, theirs))
    assert dict(builds.asked) == dict.fromkeys(theirs, 1)
    assert dict(pipeline.builds.asked) == dict.fromkeys(ours, 1)
    assert nothing_was_handed_back(pipeline)


def test_one_that_waits_for_its_baseline_has_it_made_by_its_own_hardware(pipeline: Pipeline) -> None:
    pipeline.start()
    standard = pipeline.ask("low_rank", "standard", target=VAX)
    time.sleep(0.5)
    assert pipeline.state(standard) is State.PENDING_BUILD
    builds, benchmarks = pipeline.work_for(VAX)
    pipeline.until(lambda: certified(pipeline, [standard]))
    assert sorted(builds.asked.values()) == [1, 1]
    assert len(benchmarks.asked) == 2
    assert not pipeline.builds.asked
    assert nothing_was_handed_back(pipeline)
