# ruff: noqa: E501
"""A run as a trainer would write it: forty epochs, one seed kept, two culled, one still being judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.output import Control, EventLog, Score, SplitResult, Summary
from esper.output.summary import CurvePoint, KernelSummary, SeedSummary

EPOCHS = 40
LIVES: list[tuple[str, str, list[tuple[str, int, str]]]] = [
    (
        "blocks.0/0",
        "conv_depthwise",
        [
            ("GERMINATED", 6, "plateau for 3 epochs; earliest slot gains most by the probe"),
            ("LOADING", 6, "first in the queue"),
            ("GRAFTING", 7, "fixed objective; G0 and G1 passed"),
            ("STABILIZATION", 9, "alpha reached 1"),
            ("EVALUATING", 10, "host settled"),
            ("FINE_TUNING", 11, "the twin is worse by 0.061 (p 0.0004)"),
            ("FOSSILIZED", 12, "kept improving while fine-tuning"),
        ],
    ),
    (
        "blocks.1/0",
        "squeeze_excite",
        [
            ("GERMINATED", 15, "plateau for 3 epochs"),
            ("LOADING", 15, "first in the queue"),
            ("TRAINING", 16, "loaded in 0.6 ms"),
            ("GRAFTING", 18, "G2: isolated loss fell from 0.81 to 0.44"),
            ("STABILIZATION", 20, "alpha reached 1"),
            ("EVALUATING", 21, "host settled"),
            ("CULLED", 22, "no gain over the twin: 0.002 (p 0.31)"),
            ("DORMANT", 22, "reset"),
        ],
    ),
    (
        "blocks.2/0",
        "glu_mlp",
        [
            ("GERMINATED", 27, "plateau for 4 epochs"),
            ("LOADING", 27, "first in the queue"),
            ("CULLED", 28, "the artifact's digest does not fit its manifest"),
            ("DORMANT", 28, "reset"),
        ],
    ),
    (
        "blocks.2/0",
        "attention_4h",
        [
            ("GERMINATED", 33, "plateau for 3 epochs"),
            ("LOADING", 33, "first in the queue"),
            ("GRAFTING", 34, "G0 and G1 passed"),
            ("STABILIZATION", 36, "alpha reached 1"),
            ("EVALUATING", 38, "host settled"),
        ],
    ),
]


def loss(epoch: int, floor: float) -> float:
    return floor + 1.9 * math.exp(-epoch / 5) + 0.012 * math.sin(epoch * 2.3)


def write_events(directory: Path, **names: str) -> None:
    clock = iter(range(1_767_225_600, 1_767_325_600))
    with EventLog(directory / "events.jsonl", clock=lambda: float(next(clock))) as log:
        manifest: dict[str, Any] = {
            "apiVersion": "esper.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": {"name": names.get("name", "mnist1d-cnn")},
            "spec": {
                "task": {"ref": "esper.tasks.mnist1d:cnn", "params": {"width": 8}},
                "slots": [{"path": "blocks.*"}],
                "training": {"epochs": EPOCHS, "optimizer": {"name": "AdamW", "learningRate": 0.01}},
                "budget": {"parameters": 2500, "trainingFlops": 3.2e10},
            },
        }
        log.run_started(
            epoch=0, step=0, name=names.get("name", "mnist1d-cnn"), task="esper.tasks.mnist1d:cnn", seed=0, resumed=False,
            manifest=manifest, versions={"esper": "0.1.0", "torch": "2.13.0"}, host_parameters=586,
            slots={"blocks.0": "image1d (B, 8, 20)"}, metric="accuracy",
        )  # fmt: skip
        for blueprint, strategy, state, ratio, interval, cause in _KERNELS:
            log.kernel(
                epoch=0, step=0, kernel=f"{blueprint[:4]}0123456789ab-x86_64-avx512-{strategy}-0a1b2c3d", blueprint=blueprint,
                strategy=strategy, state=state, ratio=ratio, interval=interval, latency_ms=0.21, memory_mb=3.5,
                tags=["high_speed"] if ratio and ratio < 1 else [], cause=names.get("cause", cause),
            )  # fmt: skip
        for epoch in range(1, EPOCHS + 1):
            kept = epoch >= 7
            log.epoch(
                epoch=epoch, step=epoch * 40, train_loss=loss(epoch, 0.22 if kept else 0.34),
                controller_loss=loss(epoch, 0.27 if kept else 0.36),
                controller_metric=0.94 - 0.5 * math.exp(-epoch / 6) + (0.012 if kept else 0),
                learning_rate=0.01 * min(1, (EPOCHS - epoch) / 12), seconds=1.2, parameters=1002 if kept else 586,
                flops={"host": 4e8 * epoch, "grown": 1.2e8 * max(0, epoch - 7), "twin": 4e8 * min(8, max(0, epoch - 7)),
                       "culled": 6e7 * max(0, epoch - 18), "probes": 3e7 * (epoch > 6)},
                seeds_by_stage={"DORMANT": 2, "FOSSILIZED": int(epoch >= 12)},
            )  # fmt: skip
            _boundary(log, epoch, names)
        log.checkpoint(epoch=EPOCHS, step=1600, path="checkpoints/00040", size=81_234, seconds=0.02)
        log.run_finished(epoch=EPOCHS, step=1600, phase="Completed", seconds=61.0)


_KERNELS = [
    ("conv_depthwise", "fast", "VALIDATED", 1.0, (1.0, 1.0), ""),
    ("conv_depthwise", "standard", "VALIDATED", 0.71, (0.69, 0.73), ""),
    ("squeeze_excite", "fast", "VALIDATED", 1.0, (1.0, 1.0), ""),
    ("squeeze_excite", "standard", "NOISY", 1.04, (0.93, 1.16), "the ratio did not settle within ±2 % in 60 s"),
    ("glu_mlp", "standard", "REJECTED", None, None, "gradient of 3.weight differs from fp64 by 0.02"),
]


def _boundary(log: EventLog, epoch: int, names: dict[str, str]) -> None:
    for life, blueprint, stages in LIVES:
        source = "DORMANT"
        blueprint = names.get("blueprint", blueprint)
        for stage, at, reason in stages:
            if at == epoch:
                reason = names.get("reason", reason)
                if stage == "GERMINATED":
                    log.decision(
                        epoch=epoch, step=epoch * 40, action="GERMINATE", slot=life.rpartition("/")[0], seed=life,
                        blueprint=blueprint, reason=reason, numbers={"probe_drop": 0.031, "patience": 3},
                    )  # fmt: skip
                    log.gate(
                        epoch=epoch, step=epoch * 40, seed=life, gate="G0", passed=True, reason="signed and in budget"
                    )
                if stage in ("FINE_TUNING", "CULLED") and source == "EVALUATING":
                    difference = 0.061 if stage == "FINE_TUNING" else 0.002
                    log.verdict(
                        epoch=epoch, step=epoch * 40, seed=life, passed=stage == "FINE_TUNING", reason=reason,
                        difference=difference, low=difference - 0.02, high=difference + 0.02,
                        p_value=0.0004 if difference > 0.01 else 0.31, threshold=0.005, n=1000,
                    )  # fmt: skip
                    log.gate(
                        epoch=epoch, step=epoch * 40, seed=life, gate="G4", passed=stage == "FINE_TUNING", reason=reason,
                        numbers={"difference": difference, "p": 0.0004, "n": 1000},
                    )  # fmt: skip
                log.seed(
                    epoch=epoch, step=epoch * 40, seed=life, slot=life.rpartition("/")[0], source=source, target=stage,
                    reason=reason, blueprint=blueprint, kernel="conv0123456789ab-x86_64-avx512-fast-0a1b2c3d", strategy="fast",
                )  # fmt: skip
            source = stage


def make_summary(**changes: Any) -> Summary:
    fields: dict[str, Any] = {
        "phase": "Completed", "name": "mnist1d-cnn", "task": "esper.tasks.mnist1d:cnn", "seed": 0, "epochs": EPOCHS,
        "steps": 1600, "metric": "accuracy", "higher_is_better": True,
        "controller": SplitResult(best=Score(epoch=39, loss=0.27, metric=0.951), final=Score(epoch=40, loss=0.271, metric=0.95)),
        "report": SplitResult(best=Score(epoch=39, loss=0.28, metric=0.9465), final=Score(epoch=40, loss=0.281, metric=0.946)),
        "host_parameters": 586, "parameters": 1002, "trainable_parameters": 1002, "training_flops": 2.45e10,
        "flops_on_culled_seeds": 1.3e9, "flops_on_twins": 3.2e9, "flops_on_probes": 3e7,
        "seeds_by_stage": {"FOSSILIZED": 1, "EVALUATING": 1},
        "seeds": [
            SeedSummary(id=life, slot=life.rpartition("/")[0], blueprint=blueprint, kernel="k", strategy="fast",
                        stage=stages[-2][0] if stages[-1][0] == "DORMANT" else stages[-1][0],
                        germinated_epoch=stages[0][1], reasons=[stages[-1][2]])
            for life, blueprint, stages in LIVES
        ],
        "kernels": [
            KernelSummary(id=f"{blueprint[:4]}0123456789ab-x86_64-avx512-{strategy}-0a1b2c3d", blueprint=blueprint,
                          strategy=strategy, state=state, ratio=ratio, interval=interval, latency_ms=0.21, memory_mb=3.5,
                          tags=["high_speed"] if ratio and ratio < 1 else [], cause=cause)
            for blueprint, strategy, state, ratio, interval, cause in _KERNELS
        ],
        "longest_step_ms": 14.2, "median_step_ms": 5.3, "wall_seconds": 61.2, "kernel_wait_seconds": 9.4,
        "control": Control(
            parameters=586, training_flops=2.45e10, epochs=EPOCHS, controller=SplitResult(),
            report=SplitResult(final=Score(epoch=40, loss=0.33, metric=0.934)),
            curve=[CurvePoint(epoch=epoch, controller_loss=loss(epoch, 0.36), controller_metric=0.934 - 0.5 * math.exp(-epoch / 6))
                   for epoch in range(1, EPOCHS + 1)],
        ),
        "versions": {"esper": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
    }  # fmt: skip
    return Summary(**{**fields, **changes})


@pytest.fixture
def summary() -> Callable[..., Summary]:
    return make_summary


@pytest.fixture
def run_directory(tmp_path: Path) -> Callable[..., Path]:
    """Write a run; ``summary=None`` leaves it unfinished, other arguments replace names and reasons."""

    def write(summary: Summary | None = None, finished: bool = True, **names: str) -> Path:
        directory = tmp_path / "run"
        directory.mkdir()
        write_events(directory, **names)
        if finished:
            (summary or make_summary()).write(directory)
        return directory

    return write
