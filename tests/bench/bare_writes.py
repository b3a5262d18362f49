"""The writes of a training run without an operator: how fast this API server takes them when nobody has to think.

The same objects, statuses and Events that an operator writes, and the end of the Job that is played, by plain requests
of some clients, run by run. What comes out is as much as any operator could reach here that writes the same.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from tests.bench.kube_load import Server

from clusters import training_run
from esper_operator.keys import FIELD_MANAGER
from esper_operator.plan import training_run as planning
from esper_operator.plan.actions import Create
from esper_operator.plan.observed import Observed, job_seen, object_seen
from esper_operator.plan.reading import read_run
from esper_operator.plan.settings import PodSettings

SETTINGS = PodSettings(image="localhost/esper-worker:1")
APPLY = "application/apply-patch+yaml"
NAMESPACE = "bare"
"""One that no operator works in."""
RUNS = f"/apis/esper.dev/v1alpha1/namespaces/{NAMESPACE}/trainingruns"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events"
COLLECTIONS = {"Job": JOBS, "ConfigMap": f"/api/v1/namespaces/{NAMESPACE}/configmaps"}


async def rates(server: Server, turns: int, runs: int, clients: int, ended: dict[str, Any]) -> list[float]:
    """Write all that so many runs need, some times over; returns how many a second were, of each turn.

    ``ended`` is the status of a finished Job.
    """
    await server.write("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    return [await _rate(server, f"bare-{turn}", runs, clients, ended) for turn in range(turns)]


async def _rate(server: Server, named: str, runs: int, clients: int, ended: dict[str, Any]) -> float:
    numbers = iter(range(runs))

    async def write() -> None:
        for number in numbers:
            await _one(server, f"{named}-{number}", ended)

    began = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(clients)))
    return runs / (time.perf_counter() - began)


async def _one(server: Server, name: str, ended: dict[str, Any]) -> None:
    raw = await server.write("POST", RUNS, training_run(name))
    seen = Observed()
    first = planning.plan(read_run(raw), seen, SETTINGS, datetime.now(UTC))
    made = {}
    for action in first.actions:
        assert isinstance(action, Create)
        kind = action.object["kind"]
        made[kind] = await server.write("POST", f"{COLLECTIONS[kind]}?fieldManager={FIELD_MANAGER}", action.object)
    raw = await _status(server, raw, first.status)
    for note in first.notes:
        await server.write("POST", EVENTS, _event(raw, note.reason.value, note.message))
    job = await server.write("PATCH", f"{JOBS}/{name}/status", {"status": ended})
    seen = Observed(job=job_seen(job), snapshot=object_seen(made["ConfigMap"]))
    last = planning.plan(read_run(raw), seen, SETTINGS, datetime.now(UTC))
    raw = await _status(server, raw, last.status)
    for note in last.notes:
        await server.write("POST", EVENTS, _event(raw, note.reason.value, note.message))


async def _status(server: Server, raw: dict[str, Any], status: dict[str, Any] | None) -> dict[str, Any]:
    assert status is not None
    meta = {name: raw["metadata"][name] for name in ("name", "namespace", "uid")}
    body = {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": meta, "status": status}
    path = f"{RUNS}/{meta['name']}/status?fieldManager={FIELD_MANAGER}&force=true"
    return await server.write("PATCH", path, body, APPLY)


def _event(raw: dict[str, Any], reason: str, message: str) -> dict[str, Any]:
    meta = raw["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}-", "namespace": NAMESPACE},
        "regarding": {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "name": meta["name"],
                      "namespace": NAMESPACE, "uid": meta["uid"]},
        "type": "Normal", "reason": reason, "note": message, "action": "Reconcile",
        "reportingController": "esper.dev/operator", "reportingInstance": FIELD_MANAGER,
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }  # fmt: skip
