"""How long a rollback takes, from memory and from disk, and whether it restores every bit.

A run with a seed and its twin is stopped at the end of each epoch, so that every stage of the seed's life is met. Then
it trains some steps on, one parameter is made NaN, and it goes back. Restored is compared with recorded: SHA-256 over
the bits of all tensors (host, seed, twin, optimizers), and over everything else as canonical JSON, but for the sequence
number of commands, which never goes back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.analysis import Estimate, median, wilson
from tests.bench.report import BELOW, EXACT, Report, bounded

from runs import fixed, trainer  # isort: skip

from esper.errors import NumericalFault
from esper.tolaria.randomness import epoch_order
from esper.tolaria.state import RunState, tensors_digest
from esper.tolaria.trainer import Trainer
from leyline.canonical import digest

MEMORY_GOAL, DISK_GOAL = 0.5, 12.0
EPOCHS = 9


@dataclass(frozen=True)
class Case:
    """A host to roll back."""

    name: str
    task: str
    params: dict[str, Any]
    blueprint: str


CASES = (
    Case("MNIST-1D, 586 parameters", "esper.tasks.mnist1d:task", {}, "conv_block"),
    Case("MLP, 3.2 million parameters", "esper.tasks.vector:task", {"width": 1024, "hidden": 4}, "bottleneck"),
)


def fingerprint(state: RunState) -> tuple[str, str]:
    """Digests of a state's tensors and of the rest."""
    rest = {key: value for key, value in state.meta.items() if key not in ("sequence", "events_offset")}
    return tensors_digest(state.tensors), digest(rest)


def committed(run: Trainer) -> Iterator[None]:
    """Train a run epoch by epoch, stopping after each commit."""
    recorded = run.commit
    run.state()
    while run.epoch < run.spec.training.epochs:
        epoch, progress = next(iter(run.epochs()))
        stats = run.advance(epoch, progress, _Unwatched())  # type: ignore[arg-type]
        run.observe(epoch, stats)
        recorded(run.settler.settle())
        yield


class _Unwatched:
    def beat(self) -> None:
        """Nothing watches."""


def damage(run: Trainer, steps: int = 3) -> None:
    """Train on for some steps, then break a parameter."""
    run.line.sync_optimizer()
    order = epoch_order(run.spec.seed, run.epoch + 1, len(run.task.train))
    for step in range(steps):
        run.line.train_step(order, step, 1.0)
    with torch.no_grad():
        next(run.line.model.parameters()).fill_(float("nan"))


def measure(case: Case, out: Path, rounds: int) -> list[dict[str, Any]]:
    """Roll back ``rounds`` times at the end of each epoch, by each way."""
    run = trainer(
        fixed(
            "blocks.0", case.blueprint, epoch=1, task={"ref": case.task, "params": case.params},
            training={"epochs": EPOCHS, "stepsPerEpoch": 6}, seeds={"fineTuningEpochs": 2},
            judge={"cooldownSteps": 4, "pValue": 0.49}, governor={"maxRollbacks": 1000}, checkpoints={"keep": 1},
        ),
        out, blueprints=[case.blueprint],
    )  # fmt: skip
    run.recorder.open(run.task.metric, None, 0)
    found = []
    for _ in committed(run):
        good = run.state()
        expected = fingerprint(good)
        stages = sorted(seed.stage.name for seed in run.bank.seeds.values())
        size = sum(t.numel() * t.element_size() for t in good.tensors.values())
        for _ in range(rounds):
            row: dict[str, Any] = {"case": case.name, "epoch": run.epoch, "stages": stages, "bytes": size}
            damage(run)
            began = time.perf_counter()
            run.restore(good)
            row["restore_seconds"] = time.perf_counter() - began
            row["memory_exact"] = fingerprint(run.state()) == expected
            damage(run)
            began = time.perf_counter()
            run.resume()
            row["disk_seconds"] = time.perf_counter() - began
            row["disk_exact"] = fingerprint(run.state()) == expected
            run._good = good
            damage(run)
            began = time.perf_counter()
            run.roll_back(NumericalFault("a parameter was made NaN by this benchmark"))
            row["memory_seconds"] = time.perf_counter() - began
            run.restore(good)
            found.append(row)
    run.recorder.close()
    return found


def run(quick: bool = False) -> Report:
    """Measure both hosts."""
    torch.set_num_threads(1)
    trials: list[dict[str, Any]] = []
    for case in CASES[:1] if quick else CASES:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            trials += measure(case, Path(folder), 3)
        print(f"{case.name}: done", flush=True)
    report = Report(details={"trials": trials})
    for case in dict.fromkeys(trial["case"] for trial in trials):
        mine = [trial for trial in trials if trial["case"] == case]
        size = f"{case}; state of up to {max(t['bytes'] for t in mine) / 1e6:.2g} MB"
        for way, goal in (("memory", MEMORY_GOAL), ("disk", DISK_GOAL)):
            taken = [t[f"{way}_seconds"] for t in mine]
            report.rows.append(
                bounded(
                    f"rollback from {way} ({case})", f"<= {goal:g} s", median(taken), "s", BELOW, goal,
                    f"{size}; slowest {max(taken):.3g} s" + ("; file cache warm" if way == "disk" else ""),
                )
            )  # fmt: skip
    for way in ("memory", "disk"):
        exact = wilson(sum(t[f"{way}_exact"] for t in trials), len(trials))
        stages = sorted({stage for t in trials for stage in t["stages"]})
        rate = Estimate(100 * exact.value, 100 * exact.low, 100 * exact.high, exact.n)
        report.rows.append(
            bounded(
                f"rollback from {way} restores every bit", "100 %", rate, "%", EXACT, 100.0, "met: " + ", ".join(stages)
            )
        )
    return report
