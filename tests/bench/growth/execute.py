"""Running jobs through the engine, two at a time, with progress and an estimate of the time left."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from statistics import mean
from typing import Any

from .arms import Job, manifest
from .store import Row, Store
from .suites import SUITES

NICE = 19


def run_job(job: Job, library: str) -> Row:
    """One run of the engine, from its manifest to a row of figures."""
    from esper.weatherlight.run import run
    from leyline.resources import load

    document = load(manifest(SUITES[job.task], job))
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="esper-growth-") as folder:
        summary = run(document, Path(folder) / "run", library=Path(library))
    figures = summary.model_dump(mode="json")
    if figures["phase"] != "Completed":
        raise RuntimeError(f"{job}: {figures['phase']}: {figures['reason']}")
    return {**job.key(), **row_of(figures), "seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def row_of(summary: dict[str, Any]) -> Row:
    """What the analysis needs of a run's summary."""
    report, controller = summary["report"]["final"], summary["controller"]["final"]
    return {
        "metric": report["metric"],
        "loss": report["loss"],
        "controller_metric": controller["metric"],
        "controller_loss": controller["loss"],
        "parameters": summary["parameters"],
        "flops": summary["training_flops"],
        "flops_twins": summary["flops_on_twins"],
        "flops_culled": summary["flops_on_culled_seeds"],
        "flops_probes": summary["flops_on_probes"],
        "steps": summary["steps"],
        "rollbacks": summary["rollbacks"],
        "grown": [
            {
                "slot": seed["slot"],
                "blueprint": seed["blueprint"],
                "stage": seed["stage"],
                "epoch": seed["germinated_epoch"],
                "effect": seed["verdict"].get("effect"),
                "p": seed["verdict"].get("p_value"),
            }
            for seed in summary["seeds"]
        ],
    }


def _begin() -> None:
    os.nice(NICE)
    import torch

    torch.set_num_threads(1)


def execute(jobs: Sequence[Job], store: Store, processes: int, say: Callable[[str], None], library: Path) -> list[str]:
    """Run the jobs that have no row yet; returns what failed, a line each. A failed run is tried again next time."""
    todo = store.missing(jobs)
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} runs are there already")
    if not todo:
        return []
    failed: list[str] = []
    seconds: dict[tuple[str, str, float], list[float]] = {}
    for row in store.rows():
        seconds.setdefault((row["task"], row["arm"], row["budget"]), []).append(row["seconds"])
    # spawned, not forked: a fork of a process with torch's threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin) as pool:
        waiting: dict[Future[Row], Job] = {}
        queue = list(todo)
        finished = 0
        while queue or waiting:
            while queue and len(waiting) < processes:
                job = queue.pop(0)
                waiting[pool.submit(run_job, job, str(library))] = job
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                job = waiting.pop(future)
                finished += 1
                error = future.exception()
                if error is not None:
                    failed.append(f"{job}: {type(error).__name__}: {error}")
                    say(f"failed: {failed[-1]}")
                    continue
                row = future.result()
                store.append(row)
                seconds.setdefault((job.task, job.arm, job.budget), []).append(row["seconds"])
                left = remaining([*waiting.values(), *queue], seconds) / processes
                say(
                    f"{finished}/{len(todo)} {job.task} {job.arm} {job.budget:.2g} seed {job.seed} rate {job.rate:g}: "
                    f"{row['metric']:.4f} in {row['seconds']:.1f} s; about {left / 60:.0f} min left"
                )
    return failed


def remaining(jobs: Sequence[Job], seconds: dict[tuple[str, str, float], list[float]]) -> float:
    """Seconds that jobs should take one after another, by what their like took, else all of that budget, else all."""
    everything = [value for values in seconds.values() for value in values]
    total = 0.0
    for job in jobs:
        own = seconds.get((job.task, job.arm, job.budget))
        budget = [
            v for (task, _, size), values in seconds.items() if (task, size) == (job.task, job.budget) for v in values
        ]
        total += mean(own or budget or everything or [0.0])
    return total
