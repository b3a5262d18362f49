"""The plan of a pool, on its own and against a cluster played by the rules of Kubernetes' Job controller."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_operator.keys import POOL, POOL_GENERATION, WORKER, WORKER_SCALING
from esper_operator.plan.actions import Adjust, Create, Delete
from esper_operator.plan.pool import InvalidPool, Pool, read_pool
from esper_operator.plan.pools import PoolJob, PoolPlan, job_seen, plan, served
from leyline.identity import STRATEGIES
from leyline.resources.enums import KernelPhase
from pools import HARDWARE, SCALING, pool, template, waiting


def job(number: int = 1, **values: Any) -> PoolJob:
    given = {"pool": "esper-tezzeret", "name": f"esper-tezzeret-{number}", "uid": f"uid-{number}", "owner": "pool-uid",
             "generation": 1, "parallelism": 1, "deadline": 5000}  # fmt: skip
    return PoolJob(**(given | values))


def made(found: PoolPlan) -> dict[str, Any]:
    (action,) = found.actions
    assert isinstance(action, Create)
    return action.object


def patches(found: PoolPlan) -> dict[str, Any]:
    return {each.name: each.patch["spec"] for each in found.actions if isinstance(each, Adjust)}


# -- one plan --------------------------------------------------------------------------------------------------------


def test_nothing_waits_and_nothing_is_made() -> None:
    assert plan(pool(), [], []) == PoolPlan()
    assert plan(pool(), [waiting(phase="Built"), waiting(phase="Noisy"), waiting(phase="Validated")], []) == PoolPlan()
    other = replace(waiting(), hardware="gpu-sm90")
    assert plan(pool(), [other], []) == PoolPlan()
    assert plan(pool(hardware=""), [other], []).wanted == 1


@pytest.mark.parametrize(
    ("queue", "pods"),
    [
        ({"fast": 1}, 1), ({"fast": 10}, 1), ({"fast": 11}, 2), ({"fast": 9, "standard": 1}, 2), ({"fast": 1000}, 4),
        ({"aggressive": 1, "fast": 3}, 2), ({"fast": 5, "standard": 1}, 1), ({"new-one": 2}, 2),
    ],
)  # fmt: skip
def test_each_strategy_counts_by_what_one_pod_is_left_with(queue: dict[str, int], pods: int) -> None:
    found = plan(pool(), [waiting(strategy, number) for strategy, number in queue.items()], [])
    assert made(found)["spec"]["parallelism"] == found.wanted == pods
    assert found.artifacts == sum(queue.values())


def test_the_benchmarker_is_needed_from_built_to_its_verdict() -> None:
    queue = [waiting(phase=each.value) for each in KernelPhase]
    assert plan(pool("urabrask", perPod={"fast": 1, "standard": 1, "aggressive": 1}), queue, []).wanted == 2
    assert plan(pool(), queue, []).artifacts == 1


def test_a_job_is_a_work_queue_that_belongs_to_its_template() -> None:
    found = made(plan(pool(), [waiting()], [job(7, finished=True)]))
    meta, spec = found["metadata"], found["spec"]
    assert (meta["name"], meta["namespace"]) == ("esper-tezzeret-8", "esper")
    assert meta["labels"] == {POOL: "esper-tezzeret", "app.kubernetes.io/component": "tezzeret"}
    assert meta["annotations"] == {POOL_GENERATION: "1"}
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("PodTemplate", "pool-uid", True)
    assert "completions" not in spec
    assert "completionMode" not in spec
    assert spec["template"]["spec"] == {"containers": [{"name": "tezzeret", "image": "i"}], "restartPolicy": "Never"}
    assert spec["template"]["metadata"] == {"labels": {"a": "b"}}
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [2]


def test_the_deadline_is_that_of_the_slowest_strategy_and_is_only_ever_raised() -> None:
    assert made(plan(pool(), [waiting()], []))["spec"]["activeDeadlineSeconds"] == 100
    assert made(plan(pool(), [waiting(), waiting("aggressive")], []))["spec"]["activeDeadlineSeconds"] == 5000
    assert made(plan(pool(min=1), [], []))["spec"]["activeDeadlineSeconds"] == 100
    assert patches(plan(pool(), [waiting("standard")], [job(deadline=100)])) == {
        "esper-tezzeret-1": {"activeDeadlineSeconds": 200}
    }
    assert not plan(pool(), [waiting()], [job(deadline=5000)]).actions


def test_a_running_job_is_widened_and_never_narrowed() -> None:
    assert patches(plan(pool(), [waiting(artifacts=30)], [job(parallelism=2)])) == {
        "esper-tezzeret-1": {"parallelism": 3}
    }
    assert not plan(pool(), [waiting()], [job(parallelism=4)]).actions
    assert not plan(pool(), [], [job(parallelism=4)]).actions


def test_a_job_whose_pods_began_to_end_gets_a_companion() -> None:
    closing = job(1, parallelism=3, active=1, succeeded=2)
    assert made(plan(pool(), [waiting(artifacts=30)], [closing]))["metadata"]["name"] == "esper-tezzeret-2"
    assert made(plan(pool(), [waiting(artifacts=30)], [closing]))["spec"]["parallelism"] == 2
    # One is busy for a day: what comes meanwhile is not left to it.
    assert made(plan(pool(), [waiting("aggressive"), waiting()], [closing]))["spec"]["parallelism"] == 1
    assert patches(plan(pool(), [waiting(artifacts=40)], [closing, job(2)])) == {"esper-tezzeret-2": {"parallelism": 3}}


def test_pods_that_are_going_still_take_their_place() -> None:
    ending = job(1, parallelism=4, active=1, terminating=2, leaving=True)
    assert made(plan(pool(), [waiting(artifacts=40)], [ending]))["spec"]["parallelism"] == 1
    assert not plan(pool(max=3), [waiting(artifacts=40)], [ending]).actions


def test_a_job_that_failed_holds_back_others_until_it_is_gone() -> None:
    for why in ("BackoffLimitExceeded", "PodFailurePolicy"):
        failed = job(1, finished=True, failure=why)
        found = plan(pool(), [waiting()], [failed])
        assert (found.actions, found.held) == ((), "esper-tezzeret-1")
        assert made(plan(pool(), [waiting()], []))
        newer = replace(pool(), generation=2)
        assert made(plan(newer, [waiting()], [failed]))["metadata"]["name"] == "esper-tezzeret-2"
    assert made(plan(pool(), [waiting()], [job(1, finished=True, failure="DeadlineExceeded")]))


def test_a_new_template_ends_the_jobs_of_the_older_and_begins_beside_them() -> None:
    newer = replace(pool(), generation=2)
    running = job(1, parallelism=3, active=3)
    first = plan(newer, [waiting(artifacts=40)], [running])
    assert patches(first) == {"esper-tezzeret-1": {"suspend": True}}
    assert [each.object["spec"]["parallelism"] for each in first.actions if isinstance(each, Create)] == [1]
    stopping = replace(running, suspended=True, active=0, terminating=1)
    assert made(plan(newer, [waiting(artifacts=40)], [stopping]))["spec"]["parallelism"] == 3
    assert plan(newer, [], [replace(stopping, terminating=0)]).actions == (Delete("Job", "esper-tezzeret-1", "uid-1"),)
    assert not plan(newer, [], [job(1, finished=True)]).actions
    assert not plan(newer, [], [job(1, owner="an earlier template's uid")]).actions


def test_a_job_that_somebody_suspended_is_not_doubled() -> None:
    assert not plan(pool(), [waiting()], [job(suspended=True)]).actions


def test_what_the_api_server_shows_is_read() -> None:
    raw = {
        "metadata": {"name": "esper-tezzeret-12", "uid": "u", "labels": {POOL: "esper-tezzeret"},
                     "annotations": {POOL_GENERATION: "3"},
                     "ownerReferences": [{"uid": "x"}, {"uid": "pool-uid", "controller": True}]},
        "spec": {"parallelism": 2, "activeDeadlineSeconds": 60, "suspend": True},
        "status": {"active": 1, "terminating": 2, "succeeded": 3, "conditions": [
            {"type": "Complete", "status": "False"}, {"type": "FailureTarget", "status": "True", "reason": "X"},
            {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
    }  # fmt: skip
    assert job_seen(raw) == PoolJob(
        "esper-tezzeret", "esper-tezzeret-12", "u", "pool-uid", 3, 2, 60, active=1, terminating=2, succeeded=3,
        suspended=True, leaving=True, finished=True, failure="BackoffLimitExceeded",
    )  # fmt: skip
    assert job_seen(raw).number == 12
    bare = job_seen({"metadata": {"name": "by-hand", "uid": "u"}, "spec": {}})
    assert (bare.number, bare.generation, bare.owner, bare.finished) == (0, 0, "", False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": {WORKER: "simic"}}, "must be one of tezzeret, urabrask"),
        ({"annotations": None}, WORKER_SCALING),
        ({"annotations": {WORKER_SCALING: "{"}}, WORKER_SCALING),
        ({"annotations": {WORKER_SCALING: json.dumps(SCALING | {"min": 5})}}, "min 5 is more than max 4"),
        ({"annotations": {WORKER_SCALING: json.dumps(SCALING | {"perPod": {"fast": 0}})}}, "perPod.fast"),
        ({"annotations": {WORKER_SCALING: json.dumps(SCALING | {"most": 3})}}, "most"),
        ({"annotations": {WORKER_SCALING: json.dumps(SCALING | {"max": "3"})}}, "max"),
        ({"annotations": {WORKER_SCALING: json.dumps(SCALING | {"hardware": "x86-"})}}, "hardware"),
        ({"name": "x" * 53}, "at most 52"),
    ],
)
def test_a_template_that_is_no_pool_is_refused_by_the_field(change: dict[str, Any], named: str) -> None:
    raw = template()
    raw["metadata"] |= change
    with pytest.raises(InvalidPool) as refused:
        read_pool(raw)
    assert named in str(refused.value)


def test_artifacts_are_served_by_pools_of_their_hardware_and_stage() -> None:
    pools = [pool("tezzeret"), pool("urabrask", hardware="", max=0)]
    assert served(KernelPhase.PENDING_BUILD, HARDWARE, pools)
    assert not served(KernelPhase.PENDING_BUILD, "gpu-sm90", pools)
    assert not served(KernelPhase.BUILT, HARDWARE, pools), "a pool that may have no pods takes nothing"
    assert served(KernelPhase.BUILT, "gpu-sm90", [pool("urabrask", hardware="")])
    assert all(served(each, "gpu-sm90", []) for each in KernelPhase if each.value in ("Validated", "Noisy", "Rejected"))


# -- a cluster -------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A library's queue, and Jobs that are run as Kubernetes runs them."""

    pool: Pool
    queue: Counter[str] = field(default_factory=Counter)
    jobs: dict[str, PoolJob] = field(default_factory=dict)
    born: int = 0

    def plan(self) -> PoolPlan:
        return plan(self.pool, [waiting(name, number) for name, number in self.queue.items()], [*self.jobs.values()])

    def do(self, found: PoolPlan) -> None:
        for action in found.actions:
            if isinstance(action, Create):
                name = action.object["metadata"]["name"]
                if name in self.jobs:
                    continue
                self.born += 1
                self.jobs[name] = job_seen(action.object | {"metadata": action.object["metadata"] | {"uid": name}})
            elif isinstance(action, Adjust):
                spec = action.patch["spec"]
                known = self.jobs[action.name]
                self.jobs[action.name] = replace(
                    known, parallelism=spec.get("parallelism", known.parallelism),
                    deadline=spec.get("activeDeadlineSeconds", known.deadline),
                    suspended=spec.get("suspend", known.suspended),
                )  # fmt: skip
            else:
                assert isinstance(action, Delete)
                assert not self.jobs.pop(action.name).there

    def turn(self) -> None:
        """Plan and do, with everything that must hold whatever came before."""
        before = sum(each.there for each in self.jobs.values())
        found = self.plan()
        self.do(found)
        once = dict(self.jobs)
        self.do(replace(found, actions=tuple(each for each in found.actions if not isinstance(each, Delete))))
        assert self.jobs == once, "done twice it is something else"
        self.do(self.plan())  # an older Job that is suspended makes room for another
        again = self.plan()
        assert not [each for each in again.actions if isinstance(each, Create)]
        assert "parallelism" not in str(patches(again)), "planned again it goes on growing"
        fresh = [each for each in self.jobs.values() if self._fresh(each) and not each.succeeded]
        assert len(fresh) <= 1, "two Jobs where one would do"
        most = sum(
            each.there if each.suspended and not self._fresh(each) else each.most
            for each in self.jobs.values()
            if not each.finished
        )
        assert most <= max(self.pool.scaling.max, before)
        coming = sum(
            each.active if each.succeeded else each.parallelism for each in self.jobs.values() if self._fresh(each)
        )
        assert again.held or coming >= again.wanted or most >= self.pool.scaling.max, "it waits and nobody comes"

    def _fresh(self, each: PoolJob) -> bool:
        return each.generation == self.pool.generation and not each.finished and not each.leaving

    def sync(self) -> None:
        """The Job controller: pods up to the parallelism until one has ended well, none for a suspended Job."""
        for name, each in self.jobs.items():
            if each.finished:
                continue
            gone = replace(each, terminating=0)
            if each.suspended or each.leaving:
                gone = replace(gone, active=0, terminating=each.active)
                if each.leaving and not gone.there:
                    gone = replace(gone, finished=True, failure="DeadlineExceeded")
            elif not each.succeeded:
                gone = replace(gone, active=each.parallelism)
            elif not each.active:
                gone = replace(gone, finished=True)
            self.jobs[name] = gone

    def at_work(self) -> list[str]:
        return [name for name, each in self.jobs.items() if each.active and not each.finished]

    def finish(self) -> None:
        """One artifact is done, if somebody is there to do it."""
        ready = [each for each in self.at_work() if self._fresh(self.jobs[each])]
        for strategy in sorted(+self.queue):
            if ready:
                self.queue[strategy] -= 1
                return

    def idle(self, choice: int) -> None:
        """A pod of some Job ends well: for want of work, or because its node was drained."""
        if names := self.at_work():
            name = names[choice % len(names)]
            each = self.jobs[name]
            self.jobs[name] = replace(each, active=each.active - 1, succeeded=each.succeeded + 1)

    def change(self, choice: int, **values: Any) -> None:
        """Something befalls a Job that is not finished."""
        if names := [name for name, each in self.jobs.items() if not each.finished]:
            name = names[choice % len(names)]
            self.jobs[name] = replace(self.jobs[name], **values)

    def settle(self) -> None:
        """Until nothing waits and nobody works: as long as that takes."""
        for _ in range(400):
            self.turn()
            self.sync()
            self.finish()
            if not +self.queue:
                self.idle(0)
            self.collect()
            if not +self.queue and not self.at_work() and not self.plan().actions:
                return
        raise AssertionError(f"it never ends: {self.queue} {self.jobs}")

    def collect(self) -> None:
        """What has finished is forgotten."""
        self.jobs = {name: each for name, each in self.jobs.items() if not each.finished}


events = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(STRATEGIES), st.integers(1, 30)),
    st.tuples(st.sampled_from(["sync", "finish", "turn", "collect", "upgrade"])),
    st.tuples(st.sampled_from(["idle", "expire", "fail"]), st.integers(0, 3)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(events, max_size=40), st.integers(1, 5))
def test_whatever_happens_everything_that_waits_gets_a_pod_and_no_more_than_may_be(
    happened: list[tuple[Any, ...]], most: int
) -> None:
    world = World(pool(max=most))
    for what, *rest in happened:
        if what == "ask":
            world.queue[rest[0]] += rest[1]
        elif what == "upgrade":
            world.pool = replace(world.pool, generation=world.pool.generation + 1)
        elif what == "expire":
            world.change(rest[0], leaving=True)
        elif what == "fail":
            world.change(rest[0], active=0, terminating=0, finished=True, failure="BackoffLimitExceeded")
        elif what == "idle":
            world.idle(rest[0])
        else:
            getattr(world, what)()
        world.turn()
    world.settle()
    assert not world.at_work()


def test_a_hundred_thousand_that_wait_are_one_job_of_as_many_pods_as_may_be() -> None:
    world = World(pool(max=50))
    world.queue["fast"] = 100_000
    for _ in range(20):
        world.turn()
        world.sync()
    assert world.born == 1
    assert [each.parallelism for each in world.jobs.values()] == [50]


def test_a_pool_with_a_minimum_always_has_it() -> None:
    world = World(pool(min=2))
    for _ in range(10):
        world.turn()
        world.sync()
        assert sum(each.active for each in world.jobs.values() if not each.finished) == 2
        world.idle(0)
        world.turn()
        world.sync()
    assert world.born <= 20
