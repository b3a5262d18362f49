"""How long a training step takes on two ranks of one machine, beside the same run on one rank.

Both train the same network on the same global batch; ranks are processes that speak by gloo. Runs of one rank and of
two take turns, each in fresh processes; an observation is the median step of a run, without its first steps. Every
process computes with one thread, so two ranks use two cores where one rank uses one.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.analysis import median
from tests.bench.report import Report, reported

from ranked_launch import on_ranks  # isort: skip
from runs import manifest  # isort: skip

from esper.kasmina import wrap
from esper.tamiyo import TamiyoController
from esper.tasks import load_task
from esper.tolaria.ranks import Ranks
from esper.tolaria.recorder import Recorder
from esper.tolaria.trainer import Trainer
from shelves import Shelf

WARM_UP = 20
"""First steps of a run, which are not counted."""


@dataclass(frozen=True)
class Case:
    """A host and how it is trained."""

    name: str
    task: str
    params: dict[str, Any]
    batch: int
    epochs: int


CASES = (
    Case("MNIST-1D, 586 parameters, batch 100", "esper.tasks.mnist1d:task", {}, 100, 4),
    Case("MLP, 3.2 million parameters, batch 400", "esper.tasks.vector:task", {"width": 1024, "hidden": 4}, 400, 12),
)


def steps(case: Case, ranks: Ranks) -> list[float]:
    """Seconds of each step of one run, on this rank."""
    run = manifest(
        task={"ref": case.task, "params": case.params},
        training={"epochs": case.epochs, "stepsPerEpoch": None, "batchSize": case.batch},
    )
    task = load_task(run.spec.task.ref, run.spec.task.params, run.spec.seed)
    sample, _ = task.train.batch(torch.arange(2))
    bank = wrap(task.model, run.spec.slots, sample, spec=run.spec)
    trainer = Trainer(run, task, bank, TamiyoController(run.spec), Shelf({}, ()), Recorder(None), ranks=ranks)
    trainer.train()
    return trainer.clock.steps


def alternate(case: Case, rounds: int, folder: Path) -> dict[int, list[float]]:
    """The median step in milliseconds of each run, by number of ranks."""
    load_task(case.task, case.params, 0)  # the data are made once, before the forks
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for world in (1, 2) if number % 2 == 0 else (2, 1):
            answers = on_ranks(folder, lambda ranks: steps(case, ranks), world=world, seconds=300.0)
            found[world].append(statistics.median(answers[0][WARM_UP:]) * 1e3)
    return found


def run(quick: bool = False) -> Report:
    """Measure both hosts."""
    report = Report()
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            found = alternate(case, 5 if quick else 15, Path(folder))
        ratios = [two / one for one, two in zip(found[1], found[2], strict=True)]
        for world, words in ((1, "one rank"), (2, "two ranks")):
            low, high = min(found[world]), max(found[world])
            report.rows.append(
                reported(
                    f"training step on {words}, {case.name}", median(found[world]), "ms",
                    f"medians of runs from {low:.3g} to {high:.3g} ms; one thread a process",
                )
            )  # fmt: skip
        report.rows.append(
            reported(
                f"step on two ranks over one, {case.name}", median(ratios), "x",
                f"from {min(ratios):.2f} to {max(ratios):.2f}; two processes on a machine of two cores, of which "
                "the second also serves everything else",
            )
        )  # fmt: skip
        report.details[case.name] = {str(world): values for world, values in found.items()}
        print(f"{case.name}: done", flush=True)
    return report
