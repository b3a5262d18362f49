"""A run from the command line: stopped and resumed with the same bits, and everything one asks of it afterwards."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy
import pytest
import yaml

from esper.tasks import load_task
from runs import BASE, merged

SPEC = {
    "slots": [{"path": "blocks.1"}],
    "training": {"epochs": 24, "stepsPerEpoch": 8},
    "judge": {"cooldownSteps": 8},
    "controller": {
        "policy": "Fixed",
        "warmupEpochs": 0,
        "fixed": [{"epoch": 2, "slot": "blocks.1", "blueprint": "conv_block"}],
    },
    "kernels": {"blueprints": ["conv_block"], "strategies": ["Fast"]},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "run.yaml"
    path.write_text(yaml.safe_dump(merged(BASE, {"spec": SPEC})))
    return path


@pytest.fixture(scope="module")
def undisturbed(manifest, library, tmp_path_factory) -> Path:
    """The directory of the same run when nothing happens to it."""
    from typer.testing import CliRunner

    from esper.cli import app

    out = tmp_path_factory.mktemp("undisturbed") / "run"
    result = CliRunner().invoke(app, ["run", str(manifest), "-o", str(out), "--library", str(library), "--plain"])
    assert result.exit_code == 0, result.output
    return out


def epochs(out: Path) -> int:
    log = out / "events.jsonl"
    return log.read_text().count('"kind":"epoch"') if log.exists() else 0


def bits(out: Path) -> dict[str, bytes]:
    return {name: (out / "model" / name).read_bytes() for name in ("host.safetensors", "kernels.safetensors")}


@pytest.mark.parametrize(
    ("number", "code", "phase", "epoch"),
    [(signal.SIGINT, 130, "Interrupted", 4), (signal.SIGTERM, 0, "Suspended", 11)],
    ids=["Ctrl-C while a seed is being blended in", "SIGTERM after the verdict"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    start, undisturbed, manifest, library, tmp_path, number, code, phase, epoch
):
    out = tmp_path / "run"
    options = ["run", manifest, "-o", out, "--library", library, "--plain"]
    command = start(*options)
    command.signal_when(number, lambda: epochs(out) >= epoch)
    assert command.wait() == code
    stopped = json.loads((out / "summary.json").read_text())
    assert stopped["phase"] == phase
    assert "--resume" in stopped["reason"]
    assert epoch <= stopped["epochs"] < 24
    assert not (out / "model").exists()
    assert list((out / "checkpoints").iterdir())

    assert start(*options, "--resume").wait() == 0
    summary = json.loads((out / "summary.json").read_text())
    expected = json.loads((undisturbed / "summary.json").read_text())
    assert (summary["phase"], summary["epochs"]) == ("Completed", 24)
    for key in ("report", "controller", "parameters", "training_flops", "seeds"):
        assert summary[key] == expected[key], key
    assert bits(out) == bits(undisturbed)


def test_a_stopped_run_is_not_started_over_by_mistake(esper, undisturbed, manifest):
    before = bits(undisturbed)
    code, output = esper("run", manifest, "-o", undisturbed, "--plain")
    assert code == 2
    assert "--resume" in output
    assert bits(undisturbed) == before


def test_show_tells_result_seeds_decisions_and_kernels(esper, undisturbed):
    summary = json.loads((undisturbed / "summary.json").read_text())
    (seed,) = summary["seeds"]
    code, output = esper("show", undisturbed)
    assert code == 0, output
    for word in ("Completed", seed["id"], seed["stage"], "conv_block", "germinate", "Validated"):
        assert word in output
    code, output = esper("show", undisturbed, "--json")
    assert code == 0
    assert json.loads(output)["summary"]["report"] == summary["report"]


def test_report_writes_the_page_anew(esper, undisturbed):
    page = undisturbed / "report.html"
    before = page.read_text()
    page.unlink()
    code, output = esper("report", undisturbed)
    assert code == 0, output
    assert "report.html" in output
    assert page.read_text() == before


def test_kernels_lists_the_library(esper, undisturbed, library):
    code, output = esper("kernels", library, "--json")
    assert code == 0, output
    found = {row["id"]: row for row in json.loads(output)}
    summary = json.loads((undisturbed / "summary.json").read_text())
    assert found[summary["seeds"][0]["kernel"]]["state"] == "Validated"
    code, output = esper("kernels", undisturbed / "model")
    assert code == 2
    assert "holds no kernel library" in output


def test_blueprints_lists_and_explains(esper):
    code, output = esper("blueprints")
    assert code == 0
    assert "conv_block" in output
    assert esper("blueprints", "conv_block")[0] == 0
    code, output = esper("blueprints", "conv_blok")
    assert code == 2
    assert "conv_block" in output


def test_predict_repeats_the_numbers_of_the_report(esper, undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    final = json.loads((undisturbed / "summary.json").read_text())["report"]["final"]
    code, output = esper("predict", undisturbed / "model", "--batch", 512)
    assert code == 0, output
    said = dict(line.split()[:2] for line in output.splitlines() if line.startswith(("loss", "accuracy")))
    assert float(said["accuracy"]) == pytest.approx(final["metric"], rel=1e-5)
    assert float(said["loss"]) == pytest.approx(final["loss"], rel=1e-4)
    outputs = numpy.load("predictions.npy", allow_pickle=False)
    task = load_task("esper.tasks.mnist1d:task")
    assert outputs.shape == (len(task.report), 10)


def test_predict_takes_inputs_from_a_file(esper, undisturbed, tmp_path):
    numpy.save(tmp_path / "signals.npy", numpy.zeros((3, 1, 40), dtype=numpy.float32))
    target = tmp_path / "classes.json"
    code, output = esper("predict", undisturbed / "model", "-i", tmp_path / "signals.npy", "-o", target)
    assert code == 0, output
    rows = json.loads(target.read_text())
    assert len(rows) == 3
    assert rows[0] == rows[1] == rows[2]
    numpy.save(tmp_path / "signals.npy", numpy.zeros((3, 2, 40), dtype=numpy.float32))
    code, output = esper("predict", undisturbed / "model", "-i", tmp_path / "signals.npy", "-o", target)
    assert code == 2
    assert "does not take inputs of shape (3, 2, 40)" in output
    assert json.loads(target.read_text()) == rows
