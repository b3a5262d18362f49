"""Training runs on a whole control plane whose nodes are played, beside as many bare Jobs in the same minutes.

etcd, API server, controller manager, scheduler and the operator are real; kwok plays nodes with GPUs, on which a pod
runs as soon as it is placed and is done a moment later. Jobs and runs take turns (Jobs, runs, runs, Jobs, and so on),
for what else the machine does changes by the minute; each turn waits until the one before has left nothing to do. A
Job is through when it has the condition Complete, a run when its status says Succeeded. What a run needs more than a
Job (its snapshot, conditions and changes of status, all by an operator in Python) is what the ratio shows.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.bench.analysis import median, single
from tests.bench.kube_load import JOBS, NAMESPACE, RUNS, Replica, Server, control_plane
from tests.bench.report import ABOVE, Report, bounded, reported

import kwok
import parts
from clusters import program, training_run

GOAL = 0.5
CLIENTS = 8
NODES = 8
TURNS = ("jobs", "runs", "runs", "jobs")
PATIENCE_SECONDS = 900.0
ACCOUNT = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
LIMITS = {"nvidia.com/gpu": "1"}
# As a cluster of some size has them: with their defaults, controllers would wait for themselves.
MANAGER = ("--kube-api-qps=2000", "--kube-api-burst=4000", "--concurrent-job-syncs=50", "--concurrent-gc-syncs=20")
SCHEDULER = {"qps": 2000, "burst": 4000}


async def turn(server: Server, path: str, named: str, count: int, body: Callable[[str], dict[str, Any]],
               through: Callable[[dict[str, Any]], bool]) -> float:  # fmt: skip
    """Make so many objects by some clients and wait until all are through; returns how many a second were.

    It begins when nothing is left to do of what was before: pods whose Jobs are done are still being tidied away then.
    """
    await server.settled()
    since = await server.version(path)
    left = {f"{named}-{number}" for number in range(count)}
    names = iter(sorted(left))

    async def make() -> None:
        for name in names:
            await server.write("POST", path, body(name))

    async def see() -> None:
        async for one in server.changes(path, since=since):
            if through(one):
                left.discard(one["metadata"]["name"])
                if not left:
                    return

    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(see(), *(make() for _ in range(CLIENTS)))
    except TimeoutError:
        raise RuntimeError(f"{len(left)} of {count} {named} are not through, {sorted(left)[0]} for one") from None
    return count / (time.perf_counter() - began)


def bare_job(name: str) -> dict[str, Any]:
    """A Job of one pod with one GPU."""
    container = {"name": "trainer", "image": "localhost/esper-worker:1", "resources": {"limits": LIMITS}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"completionMode": "Indexed", "completions": 1, "parallelism": 1, "template": template},
    }  # fmt: skip


def complete(job: dict[str, Any]) -> bool:
    """Whether a Job is."""
    conditions = job.get("status", {}).get("conditions", ())
    return any(each["type"] == "Complete" and each["status"] == "True" for each in conditions)


def succeeded(run: dict[str, Any]) -> bool:
    """Whether a training run has."""
    return bool((run.get("status") or {}).get("phase") == "Succeeded")


@asynccontextmanager
async def _cluster(home: Path) -> AsyncIterator[tuple[Server, str]]:
    client = SCHEDULER | {"kubeconfig": str(home / "scheduler.kubeconfig")}
    (home / "scheduler.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
                "clientConnection": client, "leaderElection": {"leaderElect": False},
            }
        )
    )  # fmt: skip
    more = {
        "etcd": (),
        "apiserver": (),
        "controller-manager": MANAGER,
        "scheduler": (f"--config={home}/scheduler.yaml",),
    }
    async with control_plane(home, more) as (server, kubeconfig):
        nodes = home / "kwok"
        nodes.mkdir()
        kwok.start(nodes, kubeconfig)
        try:
            for number in range(NODES):
                await server.write("POST", "/api/v1/nodes", kwok.node(f"node-{number}"))
            async with asyncio.timeout(60):
                while not await server.there(ACCOUNT):  # pods are refused before
                    await asyncio.sleep(0.2)
            yield server, kubeconfig
        finally:
            parts.stop(nodes)


async def _measure(report: Report, runs: int, rounds: int) -> None:
    rates: dict[str, list[float]] = {"jobs": [], "runs": []}
    each = max(1, runs // (2 * rounds))
    with parts.private("scale") as home, tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        async with _cluster(home) as (server, kubeconfig):
            with program(kubeconfig, NAMESPACE, Path(folder) / "log", log_level="warning") as started:
                operator = Replica(started)
                await operator.leads()
                await turn(server, JOBS, "warm-job", 20, bare_job, complete)
                await turn(server, RUNS, "warm-run", 20, _run, succeeded)
                spent = operator.seconds
                for number, kind in enumerate(TURNS * rounds):
                    path, body, through = (JOBS, bare_job, complete) if kind == "jobs" else (RUNS, _run, succeeded)
                    rates[kind].append(await turn(server, path, f"{kind}-{number}", each, body, through))
                    print(f"{each} {kind}: {rates[kind][-1]:.1f}/s", flush=True)
                spent = operator.seconds - spent
    pairs = [run / job for run, job in zip(rates["runs"], rates["jobs"], strict=True)]
    of = "a whole control plane with played nodes"
    note = f"{len(TURNS) * rounds} turns of {each}, Jobs and runs one after the other; everything on the same cores"
    report.rows.append(
        bounded(
            f"training runs to bare Jobs on {of}, completed a second", f">= {GOAL:g}", median(pairs), "", ABOVE, GOAL,
            note,
        )
    )  # fmt: skip
    report.rows.append(reported(f"bare Jobs on {of}", median(rates["jobs"]), "/s"))
    report.rows.append(reported(f"training runs on {of}", median(rates["runs"]), "/s"))
    cost = single(spent / (each * 2 * rounds) * 1e3)
    report.rows.append(reported(f"processor time of the operator for a run on {of}", cost, "ms"))
    report.details |= {"rates": rates, "each": each}


def _run(name: str) -> dict[str, Any]:
    return training_run(name, resources={"limits": LIMITS})


def run(quick: bool = False) -> Report:
    """Measure."""
    report = Report()
    runs = int(os.environ.get("ESPER_SCALE_RUNS", "0")) or (120 if quick else 1_600)
    asyncio.run(_measure(report, runs, 1 if quick else 4))
    return report
