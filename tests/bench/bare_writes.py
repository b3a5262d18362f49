"""The writes of a training run without an operator: how fast this API server takes them when nobody has to think.

The same objects, statuses and Events that an operator writes, and the end of the Job that is played, by plain requests
of some clients, run by run. What comes out is as much as any operator could reach here that writes the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

from tests.bench.kube_load import Server, collection

from clusters import training_run
from esper_operator.cluster.api import event_body, status_body
from esper_operator.keys import FIELD_MANAGER
from esper_operator.plan import training_run as planning
from esper_operator.plan.actions import Create
from esper_operator.plan.observed import Observed, job_seen, object_seen
from esper_operator.plan.reading import read_run
from esper_operator.plan.settings import PodSettings
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import TABLE

SETTINGS = PodSettings(image="localhost/esper-worker:1")
APPLY = "application/apply-patch+yaml"
NAMESPACE = "bare"
"""One that no operator works in."""


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
    runs, jobs = collection("TrainingRun", NAMESPACE), collection("Job", NAMESPACE)
    raw = json.loads(await server.write("POST", runs, training_run(name)))
    raw, made = await _look(server, raw, Observed())
    job = json.loads(await server.write("PATCH", f"{jobs}/{name}/status", {"status": ended}))
    await _look(server, raw, Observed(job=job_seen(job), snapshot=object_seen(json.loads(made["ConfigMap"]))))


async def _look(server: Server, raw: dict[str, Any], seen: Observed) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Do what is planned for a run; returns it as it is then, and what was made for it by kind."""
    plan = planning.plan(read_run(raw), seen, SETTINGS, datetime.now(UTC))
    made = {}
    for action in plan.actions:
        assert isinstance(action, Create)
        kind = action.object["kind"]
        path = f"{collection(kind, NAMESPACE)}?fieldManager={FIELD_MANAGER}"
        made[kind] = await server.write("POST", path, action.object)
    if plan.status is None:
        return raw, made  # what is over at once is no status
    path = f"{collection(raw['kind'], NAMESPACE)}/{raw['metadata']['name']}/status"
    manager = f"?fieldManager={FIELD_MANAGER}&force=true"
    raw = json.loads(await server.write("PATCH", path + manager, status_body(raw, plan.status), APPLY))
    for note in plan.notes:
        told = event_body(raw, TABLE[note.reason].event, note.reason.value, note.message, rfc3339(datetime.now(UTC)))
        await server.write("POST", collection("Event", NAMESPACE), told)
    return raw, made
