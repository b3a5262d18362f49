"""What bad input gets: one clear message, the right exit code, nothing half-written, nothing lost that was there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from esper.cli import app
from runs import BASE, merged


def esper(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def write(tmp_path):
    def write(changes: dict[str, Any] | None = None, name: str = "run.yaml") -> Path:
        spec = merged({"training": {"epochs": 2, "stepsPerEpoch": 2}}, changes or {})
        path = tmp_path / name
        path.write_text(yaml.safe_dump(merged(BASE, {"spec": spec})))
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"traning": {}}, ["spec.traning", "training"]),
        ({"training": {"batchSize": "many"}}, ["spec.training.batchSize", "many"]),
        ({"training": {"epochs": 0}}, ["spec.training.epochs", "1"]),
        ({"slots": [{"path": "block.*"}]}, ["block.*", "blocks.0"]),
        ({"slots": []}, ["spec.slots"]),
        ({"task": {"ref": "esper.tasks.mnist2d:task"}}, ["esper.tasks.mnist2d", "mnist1d"]),
        ({"task": {"ref": "esper.tasks.mnist1d:tusk"}}, ["tusk", "task"]),
        ({"task": {"ref": "os"}}, ["spec.task.ref"]),
        ({"task": {"ref": "broken_tasks:shapes_disagree", "params": {}}}, ["broken_tasks:shapes_disagree"]),
        ({"task": {"ref": "broken_tasks:scalar_loss", "params": {}}}, ["loss"]),
        ({"budget": {"parameters": 100}}, ["spec.budget.parameters", "586"]),
        ({"budget": {"trainingFlops": 1000}}, ["spec.budget.trainingFlops"]),
        (
            {"kernels": {"blueprints": ["mlp"]}, "controller": {"policy": "Heuristic"}},
            ["spec.kernels.blueprints", "mlp", "fits none"],
        ),
        (
            {"kernels": {"blueprints": ["conv_blok"]}, "controller": {"policy": "Heuristic"}},
            ["conv_blok", "conv_block"],
        ),
    ],
)
def test_one_message_names_what_is_wrong_and_what_is_allowed(write, tmp_path, changes, words):
    code, output = esper("run", write(changes), "-o", tmp_path / "out", "--plain")
    assert code == 2, output
    for word in words:
        assert word in output
    assert "Traceback" not in output
    assert not (tmp_path / "out" / "summary.json").exists()
    assert not (tmp_path / "out" / "model").exists()


def test_a_directory_that_holds_a_run_is_not_overwritten(write, tmp_path):
    out = tmp_path / "out"
    assert esper("run", write(), "-o", out, "--plain")[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, output = esper("run", write(), "-o", out, "--plain")
    assert code == 2
    assert "--resume" in output
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_resuming_with_another_model_or_where_nothing_is(write, tmp_path):
    out = tmp_path / "out"
    code, output = esper("run", write(), "-o", out, "--resume", "--plain")
    assert code == 2
    assert "no run to resume" in output
    assert esper("run", write(), "-o", out, "--plain")[0] == 0
    wider = write({"task": {"params": {"channels": 12}}}, "wider.yaml")
    code, output = esper("run", wider, "-o", out, "--resume", "--plain")
    assert code == 2
    assert "another model" in output


@pytest.mark.parametrize("place", ["file", "missing parent is a file"])
def test_an_unusable_output_directory(write, tmp_path, place):
    (tmp_path / "taken").write_text("precious")
    out = tmp_path / "taken" if place == "file" else tmp_path / "taken" / "out"
    code, output = esper("run", write(), "-o", out, "--plain")
    assert code == 2, output
    assert "taken" in output
    assert (tmp_path / "taken").read_text() == "precious"


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(write, tmp_path):
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        big = {"training": {"epochs": 400, "stepsPerEpoch": 1}, "checkpoints": {"keep": 400}}
        code, output = esper("run", write(big), "-o", disk / "out", "--library", tmp_path / "library", "--plain")
        assert code == 3, output
        assert "space" in output
        assert "Traceback" not in output
        from esper.tolaria.store import DirectoryStore

        found, problems = DirectoryStore(disk / "out").newest()
        assert found is not None
        assert problems == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_manifest_that_is_not_there_or_is_no_text(tmp_path):
    assert esper("run", tmp_path / "none.yaml")[0] == 2
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00")
    code, output = esper("run", tmp_path / "noise.yaml")
    assert code == 2
    assert "Traceback" not in output
