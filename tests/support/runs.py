"""Small runs of the real trainer for tests: a few seconds each, on real tasks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from esper.kasmina import wrap
from esper.tamiyo import TamiyoController
from esper.tasks import load_task
from esper.tolaria.recorder import Recorder
from esper.tolaria.store import Committer
from esper.tolaria.trainer import Trainer
from leyline.resources import TrainingRun, load
from shelves import Shelf

BASE: dict[str, Any] = {
    "apiVersion": "esper.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "test"},
    "spec": {
        "task": {"ref": "esper.tasks.mnist1d:task", "params": {}},
        "slots": [{"path": "blocks.*"}],
        "training": {
            "epochs": 12,
            "stepsPerEpoch": 8,
            "optimizer": {"learningRate": 0.02},
            "schedule": {"warmupSteps": 10, "decayFraction": 0.25},
        },
        "seeds": {"graftingEpochs": 2, "stabilizationEpochs": 1, "fineTuningEpochs": 1},
        "judge": {"cooldownSteps": 10, "minimumEffect": 0.0},  # so few steps bring next to nothing
        "controller": {"policy": "Never"},
    },
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of ``base`` with nested ``changes``."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def manifest(**spec: Any) -> TrainingRun:
    """The base manifest with changes to its spec."""
    return load(merged(BASE, {"spec": spec}))


def fixed(slot: str, blueprint: str, epoch: int = 2, **spec: Any) -> TrainingRun:
    """A run that germinates one seed at one epoch."""
    seed = {"epoch": epoch, "slot": slot, "blueprint": blueprint}
    return manifest(**merged({"controller": {"policy": "Fixed", "fixed": [seed], "warmupEpochs": 0}}, spec))


def trainer(
    run: TrainingRun, out: Path | None = None, blueprints: Sequence[str] = ("conv_block",), shelf: Shelf | None = None,
    commits: Committer | None = None,
) -> Trainer:  # fmt: skip
    """A trainer with everything real but the pools."""
    task = load_task(run.spec.task.ref, run.spec.task.params, run.spec.seed)
    sample, _ = task.train.batch(torch.arange(2))
    bank = wrap(task.model, run.spec.slots, sample, spec=run.spec)
    shelf = shelf or Shelf({name: slot.interface for name, slot in bank.slots.items()}, blueprints)
    return Trainer(run, task, bank, TamiyoController(run.spec), shelf, Recorder(out), out, commits=commits)
