from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from esper.persist import save_model
from esper.tasks import Task, load_task


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("esper.tasks.digits:task", {"channels": 2}, 3)


@pytest.fixture
def model(task: Task, tmp_path: Path) -> Path:
    reference = {"ref": "esper.tasks.digits:task", "params": {"channels": 2}, "seed": 3}
    return save_model(task.model, tmp_path / "model", {"task": reference})


def expected(task: Task, count: int) -> numpy.ndarray[Any, Any]:
    with torch.no_grad():
        outputs: numpy.ndarray[Any, Any] = task.model.eval()(task.report.batch(torch.arange(count))[0]).numpy()
    return outputs


def test_the_report_split_is_evaluated_and_written(esper: Any, task: Task, model: Path, tmp_path: Path) -> None:
    result = esper("predict", model, "--batch", "100")
    assert result.exit_code == 0, result.output
    outputs = numpy.load(tmp_path / "predictions.npy", allow_pickle=False)
    assert outputs.shape == (len(task.report), 10)
    numpy.testing.assert_allclose(outputs[:7], expected(task, 7), rtol=1e-5, atol=1e-6)
    _, targets = task.report.batch(torch.arange(len(task.report)))
    accuracy = (outputs.argmax(1) == targets.numpy()).mean()
    assert f"accuracy             {accuracy:.6g}" in result.output
    assert "597 outputs of shape (10,)" in result.output


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_file_of_inputs_is_predicted(esper: Any, task: Task, model: Path, tmp_path: Path, suffix: str) -> None:
    inputs = task.report.batch(torch.arange(5))[0].numpy()
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".npy":
        numpy.save(source, inputs)
    else:
        source.write_text(json.dumps(inputs.tolist()))
    result = esper("predict", model, "-i", source, "-o", target, "--batch", "2")
    assert result.exit_code == 0, result.output
    outputs = numpy.load(target) if suffix == ".npy" else numpy.asarray(json.loads(target.read_text()))
    numpy.testing.assert_allclose(outputs, expected(task, 5), rtol=1e-4, atol=1e-5)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.npy", b"not numpy", "in.npy"),
        ("in.npy", pickle.dumps(Trap()), "in.npy"),
        (
            "in.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 58 + b"\n",
            "in.npy",
        ),
        ("in.json", b"{", "one array of numbers"),
        ("in.json", b'["a"]', "must hold numbers"),
        ("in.json", b"[]", "must hold numbers"),
        ("in.json", b"3", "must hold numbers"),
        ("in.json", b"[[1.5, 2.5]]", "does not take inputs of shape (1, 2)"),
        ("in.csv", b"1,2", ".npy or .json"),
    ],
)
def test_inputs_that_can_not_be_used_are_refused(
    esper: Any, model: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    result = esper("predict", model, "-i", tmp_path / name)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (tmp_path / "predictions.npy").exists()


def test_an_output_name_it_can_not_write_is_refused_first(esper: Any, model: Path) -> None:
    result = esper("predict", model, "-o", "out.pkl")
    assert result.exit_code == 2
    assert ".npy or .json" in result.stderr


def test_a_model_without_a_task_needs_inputs(esper: Any, task: Task, tmp_path: Path) -> None:
    save_model(task.model, tmp_path / "bare")
    result = esper("predict", tmp_path / "bare")
    assert result.exit_code == 2
    assert "--input" in result.stderr


def test_a_damaged_model_is_bad_input(esper: Any, model: Path) -> None:
    (model / "host.safetensors").write_bytes(b"x")
    result = esper("predict", model)
    assert result.exit_code == 2
    assert "host.safetensors" in result.stderr
