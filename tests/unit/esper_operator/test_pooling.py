"""The loop that scales pools: what it does with a cluster and a library that are there, away, or say no."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from esper_operator.handlers.pooling import Pooling
from esper_operator.keys import WORKER_SCALING
from esper_operator.plan.actions import Adjust, ClusterAction, Create
from esper_operator.plan.pools import Waiting
from esper_operator.reasons import Reason
from esper_operator.refused import Refused
from leyline.resources.enums import KernelPhase
from pools import HARDWARE, template, waiting


class Outside:
    """Cluster and library: what they hold, what they were told, and what they say instead of an answer."""

    def __init__(self, *templates: dict[str, Any]) -> None:
        self.held: dict[str, list[dict[str, Any]]] = {"PodTemplate": list(templates), "Job": []}
        self.queue: list[Waiting] = []
        self.done: list[ClusterAction] = []
        self.events: list[tuple[str, str, str]] = []
        self.away: Exception | None = None
        self.refusal: Exception | None = None

    async def objects(self, kind: str, namespace: str, selector: str) -> list[dict[str, Any]]:
        assert namespace == "esper"
        return self.held[kind]

    async def waiting(self) -> list[Waiting]:
        if self.away is not None:
            raise self.away
        return self.queue

    async def execute(self, action: ClusterAction, namespace: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.done.append(action)
        if isinstance(action, Create):
            meta = action.object["metadata"] | {"uid": action.object["metadata"]["name"]}
            self.held["Job"].append(action.object | {"metadata": meta})
        elif isinstance(action, Adjust):
            for job in self.held["Job"]:
                if job["metadata"]["uid"] == action.uid:
                    job["spec"] = job["spec"] | action.patch["spec"]

    async def tell(self, resource: dict[str, Any], kind: str, reason: str, message: str, when: str) -> None:
        assert (resource["apiVersion"], resource["kind"]) == ("v1", "PodTemplate")
        self.events.append((resource["metadata"]["name"], kind, reason))

    def pooling(self) -> Pooling:
        return Pooling(self, self, "esper")  # type: ignore[arg-type]  # as far as it is asked


def turns(pooling: Pooling, number: int = 1) -> None:
    async def run() -> None:
        for _ in range(number):
            await pooling.turn()

    asyncio.run(run())


def served(pooling: Pooling, seconds: float = 0.05) -> None:
    async def run() -> None:
        task = asyncio.create_task(pooling.serve(0.001))
        await asyncio.sleep(seconds)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())


def gauge(name: str, pool: str = "esper-tezzeret") -> float | None:
    return REGISTRY.get_sample_value(f"esper_operator_pool_{name}", {"pool": pool})


def test_each_pool_gets_pods_for_what_waits_for_it_once() -> None:
    outside = Outside(template("tezzeret"), template("urabrask"))
    outside.queue = [waiting(artifacts=30)]
    pooling = outside.pooling()
    turns(pooling, 5)
    (made,) = outside.done
    assert isinstance(made, Create)
    assert made.object["metadata"]["name"] == "esper-tezzeret-1"
    assert outside.events == [("esper-tezzeret", "Normal", "PoolScaledUp")]
    assert (gauge("waiting_artifacts"), gauge("wanted_pods"), gauge("pods")) == (30, 3, 3)
    assert gauge("waiting_artifacts", "esper-urabrask") == 0
    outside.held["PodTemplate"].clear()
    turns(pooling)
    assert gauge("waiting_artifacts") is None, "a pool that is gone is not told of for ever"


def test_another_leader_finds_what_the_first_one_made() -> None:
    outside = Outside(template())
    outside.queue = [waiting(artifacts=30)]
    turns(outside.pooling())
    turns(outside.pooling(), 3)
    assert len(outside.done) == 1


@pytest.mark.parametrize(
    "error", [Refused("counts", "no answer", Reason.LIBRARY_AWAY), TimeoutError(), OSError("gone")]
)
def test_while_somebody_is_away_everything_stays_and_is_said_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    outside = Outside(template(min=1))
    pooling = outside.pooling()
    turns(pooling)
    before = REGISTRY.get_sample_value("esper_operator_pool_failures_total") or 0
    outside.away, outside.queue = error, [waiting(artifacts=1000)]
    with caplog.at_level(logging.WARNING):
        served(pooling)
    assert len(outside.done) == 1
    assert (REGISTRY.get_sample_value("esper_operator_pool_failures_total") or 0) > before + 1
    assert len([each for each in caplog.records if "pools stay as they are" in each.message]) == 1
    outside.away = None
    served(pooling)
    assert isinstance(outside.done[-1], Adjust)


def test_one_pool_that_is_refused_does_not_keep_the_other_from_its_pods() -> None:
    broken = template("urabrask")
    broken["metadata"]["annotations"] = {WORKER_SCALING: "{}"}
    outside = Outside(broken, template("tezzeret"))
    outside.queue = [waiting(artifacts=1)]
    pooling = outside.pooling()
    outside.refusal = Refused("Job esper-tezzeret-1", "exceeded quota")
    turns(pooling, 3)
    assert outside.events == [("esper-urabrask", "Warning", "InvalidPool"), ("esper-tezzeret", "Warning", "Refused")]
    outside.refusal = None
    turns(pooling)
    assert len(outside.done) == 1


def test_a_pool_that_fails_is_told_of_once() -> None:
    outside = Outside(template())
    outside.queue = [waiting(artifacts=1)]
    pooling = outside.pooling()
    turns(pooling)
    failed = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
    outside.held["Job"][0]["status"] = {"conditions": failed}
    turns(pooling, 3)
    assert outside.events[1:] == [("esper-tezzeret", "Warning", "PoolFailing")]
    assert len(outside.done) == 1


def test_what_no_pool_takes_is_known_once_the_pools_are() -> None:
    outside = Outside(template())
    pooling = outside.pooling()
    assert pooling.serves(KernelPhase.PENDING_BUILD, "gpu-sm90")
    turns(pooling)
    assert not pooling.serves(KernelPhase.PENDING_BUILD, "gpu-sm90")
    assert pooling.serves(KernelPhase.PENDING_BUILD, HARDWARE)
