"""Training runs on a real API server and etcd, with an operator, and nobody else: how many it sees through a second.

Runs are made by eight clients as fast as the API server lets them. The operator makes each run's snapshot, Service and
Job; what a node and the Job controller would do is played here: a Job that appears is begun and then finished. A run is
through when its status says Succeeded. There is no controller manager, no scheduler and no node, so what is measured
is the operator and the API server, which share the machine with who plays the rest. Compare Kueue's published gate, 43
workloads a second with its completions played as well.

In the same cluster, before the operator starts, plain requests write the same without one: what is left of that rate is
what an operator costs, and what this machine's API server can do at most is the other part of the figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import (
    bare_writes,
    common,  # noqa: F401  (finds tests/support and tests/infra)
)
from tests.bench.analysis import median, single
from tests.bench.kube_load import JOBS, MADE_BY_OPERATOR, NAMESPACE, RUNS, Replica, Server, control_plane, told_times
from tests.bench.report import ABOVE, BELOW, Report, bounded, reported

import parts
from clusters import program, training_run

GOAL_A_SECOND = 43.0
IDLE_MB, BUSY_MB = 150.0, 500.0
CLIENTS = 8
BARE_TURNS, BARE_RUNS = 5, 200
PLAYERS = 8
MOST_UNDERWAY = 2_000
"""Runs that are not through yet when further ones are held back: a queue without end would measure only itself."""
QUIET_SECONDS = 120.0
"""Without any run getting through, after which something is broken."""


@dataclass
class Course:
    """When each run was made, when its Job was there, when it was finished, and when its status said so."""

    made: dict[str, float] = field(default_factory=dict)
    job: dict[str, float] = field(default_factory=dict)
    finished: dict[str, float] = field(default_factory=dict)
    through: dict[str, float] = field(default_factory=dict)


async def play(server: Server, runs: int, course: Course) -> None:
    """Make so many runs, and play the Job controller until all are through."""
    numbers = iter(range(runs))
    underway = asyncio.Semaphore(MOST_UNDERWAY)
    jobs: asyncio.Queue[str] = asyncio.Queue()
    over = asyncio.Event()

    async def make() -> None:
        for number in numbers:
            await underway.acquire()
            name = f"run-{number}"
            await server.write("POST", RUNS, training_run(name))
            course.made[name] = time.perf_counter()

    async def see_jobs() -> None:
        async for job in server.changes(JOBS, MADE_BY_OPERATOR):
            name = job["metadata"]["name"]
            if name not in course.job:
                course.job[name] = time.perf_counter()
                jobs.put_nowait(name)

    async def finish() -> None:
        while True:
            name = await jobs.get()
            await server.write("PATCH", f"{JOBS}/{name}/status", {"status": _ended()})
            course.finished[name] = time.perf_counter()

    async def see_runs() -> None:
        async for run in server.changes(RUNS):
            name = run["metadata"]["name"]
            if (run.get("status") or {}).get("phase") == "Succeeded" and name not in course.through:
                course.through[name] = time.perf_counter()
                underway.release()
                if len(course.through) == runs:
                    over.set()

    works = [make() for _ in range(CLIENTS)] + [finish() for _ in range(PLAYERS)] + [see_jobs(), see_runs()]
    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(lambda done: over.set() if not done.cancelled() and done.exception() else None)
    try:
        before = -1
        while not over.is_set():
            if len(course.through) == before:
                raise RuntimeError(f"nothing moves: {len(course.made)} made, {len(course.job)} Jobs, {before} through")
            before = len(course.through)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), QUIET_SECONDS)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ended() -> dict[str, Any]:
    """The status of a Job of one pod that has done its work."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": when}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    return {
        "startTime": when, "completionTime": when, "succeeded": 1, "active": 0, "ready": 0, "completedIndexes": "0",
        "uncountedTerminatedPods": {}, "conditions": conditions,
    }  # fmt: skip


async def _measure(report: Report, runs: int) -> None:
    with parts.private("scale") as home, tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        async with control_plane(home) as (server, kubeconfig):
            bare = await bare_writes.rates(server, BARE_TURNS, BARE_RUNS, CLIENTS, _ended())
            await server.settled()
            with program(kubeconfig, NAMESPACE, Path(folder) / "log", log_level="warning") as started:
                operator = Replica(started)
                await operator.leads()
                await asyncio.sleep(5)
                idle, spent, asked = operator.megabytes, operator.seconds, await server.requests()
                course = Course()
                began = time.perf_counter()
                await play(server, runs, course)
                lasted = max(course.through.values()) - began
                after = await server.requests()
                calls = {key: (count - asked.get(key, 0.0)) / runs for key, count in after.items()}
                _tell(report, runs, bare, lasted, course, idle, operator.megabytes, operator.seconds - spent, calls)


def _tell(
    report: Report, runs: int, bare: list[float], lasted: float, course: Course, idle: float, busy: float, spent: float,
    calls: dict[tuple[str, str], float],
) -> None:  # fmt: skip
    of = f"{runs:,} training runs on an API server alone"
    rate = runs / lasted
    note = f"{lasted:.0f} s; made by {CLIENTS} clients, at most {MOST_UNDERWAY:,} underway; Jobs' ends are played"
    report.rows.append(
        bounded(
            f"{of}, seen through a second", f">= {GOAL_A_SECOND:g}/s", single(rate), "/s", ABOVE, GOAL_A_SECOND, note
        )
    )
    report.rows.append(
        reported(
            "a training run's writes on an API server alone, by plain requests without an operator", median(bare), "/s",
            f"{len(bare)} turns of {BARE_RUNS} runs just before, by {CLIENTS} clients: the machine's own limit",
        )
    )  # fmt: skip
    share = [rate / each for each in bare]
    report.rows.append(reported(f"{of}, of the rate without an operator", median(share), ""))
    report.details["rates without an operator"] = bare
    for words, start, end in (
        ("from a run that is made to its Job", course.made, course.job),
        ("from a Job that has ended to the run's status", course.finished, course.through),
    ):
        times = [(end[name] - start[name]) * 1e3 for name in end]
        told_times(report, f"{of}, {words}", times)
        report.details[words] = times
    report.rows.append(
        bounded("memory of an idle operator", f"<= {IDLE_MB:g} MB", single(idle), "MB", BELOW, IDLE_MB, "resident")
    )
    report.rows.append(
        bounded(
            f"memory of an operator after {of}", f"<= {BUSY_MB:g} MB", single(busy), "MB", BELOW, BUSY_MB, "resident"
        )
    )
    report.rows.append(reported(f"{of}, processor time of the operator for each", single(spent / runs * 1e3), "ms"))
    often = {f"{verb} {what}": round(count, 2) for (verb, what), count in sorted(calls.items()) if count >= 0.05}
    report.rows.append(
        reported(
            f"{of}, requests to the API server for each", single(sum(often.values())), "", f"{often}; with the played"
        )
    )
    report.details["requests"] = often


def run(quick: bool = False) -> Report:
    """Measure."""
    report = Report()
    asyncio.run(_measure(report, int(os.environ.get("ESPER_SCALE_RUNS", "0")) or (300 if quick else 15_000)))
    return report
