from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from esper.cli import app
from esper.output import EventLog, Score, SplitResult, Summary

MANIFEST = """\
apiVersion: esper.dev/v1alpha1
kind: TrainingRun
metadata: {name: small}
spec:
  task: {ref: esper.tasks.digits:task, params: {channels: 2}}
  slots: [{path: "blocks.*"}]
  training: {epochs: 2}
"""

Esper = Callable[..., Result]


def make_summary(**changes: Any) -> Summary:
    fields: dict[str, Any] = {
        "phase": "Completed", "name": "small", "task": "esper.tasks.digits:task", "seed": 0, "epochs": 2, "steps": 20,
        "metric": "accuracy", "higher_is_better": True, "controller": SplitResult(),
        "report": SplitResult(final=Score(epoch=2, loss=0.5, metric=0.875)),
        "host_parameters": 100, "parameters": 100, "trainable_parameters": 100, "training_flops": 1e9,
        "wall_seconds": 3.0,
    }  # fmt: skip
    return Summary(**{**fields, **changes})


@dataclass
class Calls:
    """What the command handed to the run, and what the run is to answer."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[], Summary] = make_summary


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand in for the trainer: what is under test is how the command calls it and what it makes of the answer."""
    calls = Calls()
    module = ModuleType("esper.weatherlight.run")

    def run(manifest: Any, out: Path, resume: bool, progress: Any, **options: Any) -> Summary:
        calls.seen.append({"manifest": manifest, "out": out, "resume": resume, "progress": progress, **options})
        progress.phase("training")
        return calls.answer()

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "esper.weatherlight.run", module)
    return calls


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def esper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Esper:
    """Call the command in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_DEBUG", raising=False)
    runner = CliRunner()

    def call(*arguments: str | Path, input: bytes | None = None) -> Result:
        words: Sequence[str] = [str(argument) for argument in arguments]
        return runner.invoke(app, words, input=input)

    return call


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A run of two epochs with one seed that was culled and one kernel."""
    directory = tmp_path / "runs" / "small"
    directory.mkdir(parents=True)
    with EventLog(directory / "events.jsonl", clock=lambda: 1.7e9) as log:
        log.run_started(
            epoch=0, step=0, name="small", task="t:t", seed=0, resumed=False, manifest={"kind": "TrainingRun"},
            versions={"esper": "0.1.0"}, host_parameters=100, slots={},
        )  # fmt: skip
        log.kernel(
            epoch=0, step=0, kernel="k", blueprint="[bold]conv", strategy="standard", state="Validated", ratio=0.7,
            interval=(0.6, 0.8), latency_ms=0.2, memory_mb=1.5, tags=["high_speed"],
        )  # fmt: skip
        log.decision(
            epoch=1, step=10, action="GERMINATE", reason="plateau for 3 epochs", slot="blocks.0",
            blueprint="[bold]conv", numbers={"probe": 0.25},
        )  # fmt: skip
        for source, target in (("DORMANT", "GERMINATED"), ("GERMINATED", "LOADING"), ("LOADING", "CULLED")):
            log.seed(
                epoch=1, step=10, seed="blocks.0/0", slot="blocks.0", source=source, target=target,
                reason="its digest does not fit", blueprint="[bold]conv",
            )  # fmt: skip
        log.warning(epoch=1, step=10, text="the disk is slow")
        log.epoch(
            epoch=1, step=10, train_loss=0.5, controller_loss=0.6, controller_metric=0.8, learning_rate=0.1,
            seconds=1.0, parameters=100, flops={"host": 1e9}, seeds_by_stage={},
        )  # fmt: skip
    return directory
