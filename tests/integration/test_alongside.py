"""Kernels that arrive while a run trains: another process makes them, the run takes them up between two epochs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from esper.output import Silent
from esper.output.readers import read_run
from esper.tolaria.store import Journal
from esper.urza import SqlLibrary, State
from esper.weatherlight import beside
from esper.weatherlight.run import run
from runs import manifest

PATIENCE = 150.0


def pipelines() -> list[psutil.Process]:
    """Kernel processes of this one."""
    return [p for p in psutil.Process().children() if "esper.weatherlight.beside" in " ".join(p.cmdline())]


class Waiting(Silent):
    """Holds the run up after its second epoch until its kernels are certified, however slow the machine is."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self.trained_before = 0
        self.seen: list[list[psutil.Process]] = []

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """Look, and wait."""
        if stats["epoch"] != 2:
            return
        self.trained_before = stats["epoch"]
        self.seen.append(pipelines())
        deadline = time.monotonic() + PATIENCE
        with closing(SqlLibrary.open(self.library)) as library:
            while not all(record.state is State.VALIDATED for record in library.records()):
                assert time.monotonic() < deadline, "no kernel was certified"
                time.sleep(0.1)


def test_a_run_takes_up_kernels_that_come_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "LOWEST", 0)  # the tests beside this one would starve it
    asked = manifest(
        controller={
            "policy": "Fixed", "warmupEpochs": 0, "fixed": [{"epoch": 4, "slot": "blocks.1", "blueprint": "conv_block"}]
        },
        kernels={"prepare": "Alongside", "blueprints": ["conv_block"], "strategies": ["Fast"]},
        judge={"mode": "Off"},
    )  # fmt: skip
    library, out = tmp_path / "library", tmp_path / "out"
    watcher = Waiting(library)
    summary = run(asked, out, progress=watcher, library=library)
    assert summary.phase == "Completed"
    assert summary.seeds_by_stage == {"FOSSILIZED": 1}
    assert watcher.trained_before == 2, "training did not wait for the kernels"
    assert len(watcher.seen[0]) == 1, "they were made in another process"
    assert pipelines() == [], "which is gone with the run"
    arrived = {
        entry["epoch"]: entry["arrived"] for entry in Journal(out / "journal.jsonl").entries() if entry["arrived"]
    }
    ((epoch, kernels),) = arrived.items()
    assert epoch == 3, "noted with the first epoch that ended after they were certified"
    assert len(kernels) == 3
    assert read_run(out).summary.seeds_by_stage == {"FOSSILIZED": 1}
