"""Esper from Python: the lines of the README, and what comes out of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import esper
from esper.errors import EsperError, ManifestError, ModelError, OutputDirectoryError, SlotError
from esper.output.readers import read_run
from esper.tasks import load_task
from esper.weatherlight.run import run
from leyline.resources import load

ROOT = Path(__file__).resolve().parents[2]
REPORT = torch.arange(64)


def shortened(**changes):
    """The README's manifest, cut to seconds: one seed, kept without a judge."""
    document = yaml.safe_load((ROOT / "docs/examples/mnist1d.yaml").read_text())
    spec = document["spec"]
    spec["training"] |= {"epochs": 6, "stepsPerEpoch": 4}
    spec["judge"] = {"mode": "Off"}
    spec["seeds"] = {"graftingEpochs": 1, "stabilizationEpochs": 1, "fineTuningEpochs": 1}
    fixed = [{"epoch": 1, "slot": "blocks.1", "blueprint": "conv_block"}]
    spec["controller"] = {"policy": "Fixed", "warmupEpochs": 0, "fixed": fixed}
    spec["kernels"] = {"blueprints": ["conv_block"], "strategies": ["Fast"]}
    spec["slots"] = [{"path": "blocks.1"}]
    spec |= changes
    return document


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory in which the README's lines were run, as they stand there, on a shorter manifest."""
    home = tmp_path_factory.mktemp("sdk")
    (home / "docs/examples").mkdir(parents=True)
    (home / "docs/examples/mnist1d.yaml").write_text(yaml.safe_dump(shortened()))
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"## From Python\n```python\n(.*?)```", readme, re.S)
    assert len([line for line in block.splitlines() if line.strip()]) <= 15
    before, names = Path.cwd(), {}
    os.chdir(home)
    try:
        exec(compile(block, "README.md", "exec"), names)
    finally:
        os.chdir(before)
    return home, names


def test_the_lines_of_the_readme_train_grow_save_and_load(home):
    path, names = home
    summary = names["summary"]
    assert summary.phase == "Completed"
    assert summary.seeds_by_stage == {"FOSSILIZED": 1}
    assert summary.parameters > summary.host_parameters == 586
    assert names["model"] is names["task"].model
    assert json.loads((path / "runs/sdk/summary.json").read_text())["report"]["final"] == {
        "epoch": 6,
        "loss": summary.report.final.loss,
        "metric": summary.report.final.metric,
    }
    assert read_run(path / "runs/sdk").phase == "Completed"


def test_what_comes_back_computes_the_same_bits_and_is_a_plain_module(home):
    _, names = home
    model, grown = names["model"].eval(), names["grown"]
    inputs, _ = names["task"].report.batch(REPORT)
    with torch.no_grad():
        assert torch.equal(model(inputs), grown(inputs))
    host = load_task("esper.tasks.mnist1d:task").model.eval()
    with torch.no_grad():
        assert not torch.equal(host(inputs), grown(inputs))
    for name, module in grown.named_modules():
        hooks = (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
            module._state_dict_hooks, module._load_state_dict_pre_hooks,
        )  # fmt: skip
        assert not any(hooks), f"{name} has hooks"
        assert not type(module).__module__.startswith(("esper.kasmina", "esper.tolaria"))
    with pytest.raises(SlotError, match="not wrapped"):
        esper.bank_of(grown)


def test_it_exports_with_the_same_outputs(home):
    _, names = home
    grown = names["grown"]
    inputs, _ = names["task"].report.batch(REPORT)
    batch = torch.export.Dim("batch", min=2, max=512)
    exported = torch.export.export(grown, (inputs,), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(inputs), grown(inputs), rtol=0, atol=0)
        torch.testing.assert_close(exported(inputs[:3]), grown(inputs[:3]), rtol=1e-6, atol=1e-6)


def test_loading_needs_no_library(home, tmp_path):
    """In a process that can't import the library's database or the trainer, from a copy with nothing beside it."""
    path, names = home
    shutil.copytree(path / "grown", tmp_path / "grown")
    inputs, _ = names["task"].report.batch(REPORT)
    safetensors.torch.save_file({"inputs": inputs}, tmp_path / "inputs.safetensors")
    script = """
import sys
for name in ("sqlalchemy", "alembic", "esper.urza", "esper.tolaria", "esper.weatherlight", "esper.tezzeret"):
    sys.modules[name] = None
import safetensors.torch, torch
import esper
from esper.tasks import load_task
torch.set_num_threads(1)
grown = esper.load_model("grown", host=load_task("esper.tasks.mnist1d:task").model)
with torch.no_grad():
    outputs = grown(safetensors.torch.load_file("inputs.safetensors")["inputs"])
safetensors.torch.save_file({"outputs": outputs}, "outputs.safetensors")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.equal(
            safetensors.torch.load_file(tmp_path / "outputs.safetensors")["outputs"], names["grown"](inputs)
        )


def test_from_python_a_run_gives_the_bits_of_the_command(home, tmp_path):
    """The manifest's settings for seeds, judge and budget count in both."""
    path, names = home
    summary = run(load(shortened()), tmp_path / "run", library=path / "runs/library")
    assert summary.seeds_by_stage == {"FOSSILIZED": 1}
    assert summary.report.final == names["summary"].report.final
    for name in ("host.safetensors", "kernels.safetensors"):
        assert (tmp_path / "run/model" / name).read_bytes() == (path / "grown" / name).read_bytes()


def test_a_budget_that_leaves_no_room_refuses_the_seed_from_python_too(home, tmp_path):
    path, _ = home
    config = esper.load_config(shortened(budget={"parameters": 600}))
    task = esper.load_task(config)
    model = esper.wrap(task.model, "blocks.1")
    trainer = esper.TolariaTrainer(
        model,
        esper.TamiyoController(config.spec),
        config,
        task=task,
        out=tmp_path / "run",
        library=path / "runs/library",
    )
    summary = trainer.train()
    assert summary.parameters == summary.host_parameters
    assert "FOSSILIZED" not in summary.seeds_by_stage


def test_a_directory_with_a_run_is_refused(home):
    path, names = home
    config = names["config"]
    task = esper.load_task(config)
    model = esper.wrap(task.model, config.spec.slots)
    trainer = esper.TolariaTrainer(model, esper.TamiyoController(config.spec), config, task=task, out=path / "runs/sdk")
    before = (path / "runs/sdk/summary.json").read_bytes()
    with pytest.raises(OutputDirectoryError, match="already holds a run"):
        trainer.train()
    assert (path / "runs/sdk/summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda model: (model / "lineage.json").unlink(), "not a saved model"),
        (lambda model: (model / "host.safetensors").unlink(), "not complete"),
        (lambda model: _cut(model / "kernels.safetensors"), "not the file that was saved"),
        (lambda model: (model / "lineage.json").write_text("{"), "not JSON"),
        (lambda model: (model / "lineage.json").write_text('{"schema": 99}'), "schema 99"),
        # a pickle that would run a command
        (lambda model: (model / "host.safetensors").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR."), "not the file"),
    ],
)
def test_a_damaged_model_is_refused(home, tmp_path, monkeypatch, harm, said):
    path, _ = home
    monkeypatch.chdir(tmp_path)
    shutil.copytree(path / "grown", tmp_path / "grown")
    harm(tmp_path / "grown")
    with pytest.raises(ModelError, match=said):
        esper.load_model("grown", host=load_task("esper.tasks.mnist1d:task").model)
    assert not (tmp_path / "owned").exists()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


# -- what lower layers raise comes out as an EsperError ---------------------------------------------------------------


def _train(out, library, **changes):
    config = esper.load_config(shortened(**changes))
    task = esper.load_task(config)
    model = esper.wrap(task.model, config.spec.slots)
    controller = esper.TamiyoController(config.spec)
    return esper.TolariaTrainer(model, controller, config, task=task, out=out, library=library).train()


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "library").mkdir()
    (tmp_path / "library/urza.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(EsperError, match=r"urza\.sqlite"):
        _train(tmp_path / "run", tmp_path / "library")


def test_a_library_where_a_file_is(tmp_path):
    (tmp_path / "library").write_text("precious")
    with pytest.raises(EsperError, match="library"):
        _train(tmp_path / "run", tmp_path / "library")
    assert (tmp_path / "library").read_text() == "precious"


def test_a_manifest_that_pydantic_refuses():
    with pytest.raises(ManifestError, match=r"spec\.training\.epochs"):
        esper.load_config(shortened(training={"epochs": "many"}))


@pytest.mark.parametrize("where", ["model", "loss", "data"])
def test_a_task_that_raises_while_training(tmp_path, where):
    never = {"controller": {"policy": "Never"}, "slots": [{"path": "blocks"}]}
    task = {"ref": "broken_tasks:raises_later", "params": {"where": where}}
    with pytest.raises(
        EsperError, match=rf"the task's {where} raised RuntimeError at .*broken_tasks\.py:\d+: late"
    ) as it:
        _train(tmp_path / "run", tmp_path / "library", task=task, **never)
    assert it.value.exit_code == 3
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["phase"] == "Failed"
    assert "late" in summary["reason"]
