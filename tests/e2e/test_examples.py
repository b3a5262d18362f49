"""Every manifest under docs/examples is right, and runs from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

from esper.kasmina.slots import measure
from esper.output.readers import read_run
from esper.persist import load_model, read_lineage
from esper.sdk import load_config
from esper.tasks import load_task
from esper.urza import SqlLibrary
from esper.weatherlight.pools import KernelService

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
ALL = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
#: What the shortened run grows, and where.
SEEDS = {
    "chars.yaml": ("blocks.0", "mlp"),
    "digits.yaml": ("blocks.0", "separable_conv_2d"),
    "mnist1d.yaml": ("blocks.0", "separable_conv"),
    "own_task.yaml": ("hidden.0", "mlp"),
    "vector.yaml": ("blocks.0", "mlp"),
}
EPOCHS = 6


@pytest.fixture(autouse=True)
def _own_tasks_are_imported_anew(monkeypatch):
    """The command makes modules beside a manifest importable; the next test must not profit from it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_task", raising=False)


@pytest.fixture(scope="module")
def stocked(library):
    """The library with the kernels of every example: the processes that make them start once, not once a run."""
    interfaces, blueprints = [], []
    for name, (slot, blueprint) in SEEDS.items():
        spec = load_config(EXAMPLES / name).spec
        task = load_task(spec.task.ref, spec.task.params, spec.seed, search=[EXAMPLES])
        found, _ = measure(task.model, [slot], task.train.batch(torch.arange(2))[0])
        interfaces.append(found[slot].interface)
        blueprints.append(blueprint)
    shelves = SqlLibrary.open(library)
    try:
        with KernelService(shelves, library) as service:
            service.prepare(dict.fromkeys(interfaces), list(dict.fromkeys(blueprints)), ["fast"])
    finally:
        shelves.close()
    return library


def test_there_is_an_example_for_each_bundled_task_and_for_ones_own():
    named = {yaml.safe_load((EXAMPLES / name).read_text())["spec"]["task"]["ref"].partition(":")[0] for name in ALL}
    assert named == {f"esper.tasks.{name}" for name in ("chars", "digits", "mnist1d", "vector")} | {"own_task"}
    assert set(SEEDS) == set(ALL)
    assert len((EXAMPLES / "own_task.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", ALL)
def test_an_example_is_right(esper, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, output = esper("validate", EXAMPLES / name)
    assert code == 0, output
    spec = yaml.safe_load((EXAMPLES / name).read_text())["spec"]
    for blueprint in spec["kernels"]["blueprints"]:
        assert blueprint in output
    assert f"task {spec['task']['ref']}" in output


@pytest.mark.parametrize("name", ALL)
def test_what_an_example_says_of_its_size_is_true(name):
    """The comments of a manifest name the host's size; they must not go stale."""
    text = (EXAMPLES / name).read_text()
    spec = yaml.safe_load(text)["spec"]
    task = load_task(spec["task"]["ref"], spec["task"].get("params", {}), spec["seed"], search=[EXAMPLES])
    size = sum(parameter.numel() for parameter in task.model.parameters())
    assert f"the host has {size:,}" in text
    assert spec["budget"]["parameters"] > size


@pytest.mark.parametrize("name", ALL)
def test_an_example_runs_from_end_to_end(esper, stocked, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    slot, blueprint = SEEDS[name]
    fixed = json.dumps([{"epoch": 1, "slot": slot, "blueprint": blueprint}])
    changes = [
        f"training.epochs={EPOCHS}", "training.stepsPerEpoch=4", "controller.policy=Fixed", "controller.warmupEpochs=0",
        f"controller.fixed={fixed}", f"slots=[{{path: {slot}}}]", f"kernels.blueprints=[{blueprint}]",
        "kernels.strategies=[Fast]", "seeds.graftingEpochs=1", "judge.cooldownSteps=2",
    ]  # fmt: skip
    options = [word for change in changes for word in ("--set", change)]
    code, output = esper("run", EXAMPLES / name, "--library", stocked, "--plain", *options)
    assert code == 0, output
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name == yaml.safe_load((EXAMPLES / name).read_text())["metadata"]["name"]

    summary = json.loads((out / "summary.json").read_text())
    assert summary["phase"] == "Completed"
    assert (summary["epochs"], summary["steps"]) == (EPOCHS, 4 * EPOCHS)
    (seed,) = summary["seeds"]
    assert (seed["slot"], seed["blueprint"]) == (slot, blueprint)
    assert seed["stage"] in ("FOSSILIZED", "CULLED")

    record = read_run(out)
    assert [epoch["epoch"] for epoch in record.epochs] == list(range(1, EPOCHS + 1))
    assert record.epochs[-1]["controller_loss"] == summary["controller"]["final"]["loss"]
    assert record.epochs[-1]["parameters"] == summary["parameters"]
    last = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()][-1]
    assert (last["kind"], last["phase"]) == ("run_finished", "Completed")

    page = (out / "report.html").read_text()
    assert summary["name"] in page
    assert seed["id"] in page
    assert "Completed" in page
    assert list((out / "tensorboard").iterdir())

    model = load_model(out / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == summary["parameters"]
    kept = [kernel.seed for entry in read_lineage(out / "model").slots for kernel in entry.kernels]
    assert kept == ([seed["id"]] if seed["stage"] == "FOSSILIZED" else [])
    assert bool(safetensors.torch.load_file(out / "model" / "kernels.safetensors")) == bool(kept)
