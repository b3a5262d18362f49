"""What it costs to record an epoch: its statistics and events, and the commit that makes them durable.

Recording happens between epochs, never inside a step. Measured is one epoch's worth: the epoch's line in
``events.jsonl`` and TensorBoard, and for each of ten seeds a transition, a gate and a decision.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.bench.analysis import median, percentile
from tests.bench.report import BELOW, Report, bounded, reported

from esper.kasmina import GateResult, SeedEvent
from esper.tamiyo import Order
from esper.tamiyo.views import OrderKind
from esper.tolaria.recorder import Recorder
from leyline.lifecycle import Actor, Gate, Stage

GOAL_MS = 10.0
SEEDS = 10


def _epoch(recorder: Recorder, epoch: int) -> None:
    recorder.at(epoch, epoch * 40)
    stats = {
        "train_loss": 1.0 / epoch, "controller_loss": 1.1 / epoch, "controller_metric": 0.9, "learning_rate": 0.02,
        "seconds": 0.1, "parameters": 586 + epoch, "flops": {"host": 10**9 * epoch, "grown": 10**8, "twin": 10**8},
        "seeds_by_stage": {"DORMANT": 2, "GRAFTING": 1}, "median_step_ms": 2.0, "longest_step_ms": 4.0,
        "gradient_norm": 1.0,
    }  # fmt: skip
    recorder.epoch_done(stats, 1000, None)
    for i in range(SEEDS):
        numbers = {"effect": 0.01 * i, "p_value": 0.001}
        gate = GateResult(Gate.G3, True, "output scale 0.5 of at most 4", numbers)
        slot, seed = f"blocks.{i}", f"blocks.{i}/{epoch}"
        recorder.decisions([Order(OrderKind.ADVANCE, slot, Stage.STABILIZATION, "the blend is complete", seed=seed)])
        recorder.seed(
            SeedEvent(
                seed, slot, Stage.GRAFTING, Stage.STABILIZATION, Actor.TAMIYO, epoch, "the blend is complete", numbers,
                (gate,), "0" * 16, "conv_block",
            ),
            "fast",
        )  # fmt: skip


def run(quick: bool = False) -> Report:
    """Measure recording, and the commit beside it."""
    recording, commits = [], []
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        recorder = Recorder(Path(folder))
        recorder.open("accuracy", None, 0)
        for epoch in range(1, (60 if quick else 400) + 1):
            began = time.perf_counter()
            _epoch(recorder, epoch)
            recorded = time.perf_counter()
            recorder.commit()
            commits.append((time.perf_counter() - recorded) * 1e3)
            recording.append((recorded - began) * 1e3)
        recorder.close()
    p95 = percentile(recording, 0.95)
    note = f"{SEEDS} seed transitions, gates and decisions an epoch; 95th percentile " + (
        f"{p95:.3g} ms" if p95 is not None else "needs more epochs"
    )
    return Report(
        [
            bounded("recording an epoch", f"<= {GOAL_MS:g} ms", median(recording), "ms", BELOW, GOAL_MS, note),
            reported(
                "making the epoch's events durable (fsync)", median(commits), "ms", "between epochs, at each commit"
            ),
        ],
        {"recording_ms": recording, "commit_ms": commits},
    )
