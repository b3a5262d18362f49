"""``esper predict``: a saved model on its task's report split, or on a file of inputs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
import typer

from esper.errors import BadInput
from esper.output.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper.tasks import Task


def predict_with(directory: Path, source: Path | None, output: Path, batch: int) -> None:
    """Run the model saved in ``directory`` and write its outputs to ``output``.

    Raises:
        BadInput: the model, the inputs or the output's name can't be used.
    """
    _check_suffix(output, "--output")
    from esper.persist import load_model, read_lineage

    if source is not None:
        inputs = read_inputs(source)
        outputs = _run(load_model(directory), inputs, batch, str(source))
        measured: dict[str, float] = {}
    else:
        lineage = read_lineage(directory)
        if lineage.host.task is None:
            raise BadInput(f"{directory} was saved without a task, so it has no report split: give inputs with --input")
        from esper.tasks import load_task

        reference = lineage.host.task
        task = load_task(reference.ref, reference.params, reference.seed)
        outputs, measured = _evaluate(load_model(directory, host=task.model), task, batch)
    write_outputs(output, outputs)
    for name, value in measured.items():
        typer.echo(f"{name:<20} {value:.6g}")
    typer.echo(f"{len(outputs)} outputs of shape {tuple(outputs.shape[1:])} in {output}")


def _run(model: nn.Module, inputs: Tensor, batch: int, name: str) -> Tensor:
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), batch):
            try:
                parts.append(model(inputs[start : start + batch]))
            except Exception as error:
                form = f"shape {tuple(inputs.shape)} and type {inputs.dtype}"
                raise BadInput(f"{name}: the model does not take inputs of {form}: {error}") from error
    return torch.cat(parts)


def _evaluate(model: nn.Module, task: Task, batch: int) -> tuple[Tensor, dict[str, float]]:
    """Outputs on the report split, and the means of loss and metrics over its examples."""
    parts: list[Tensor] = []
    values: dict[str, list[Tensor]] = {"loss": [], **{name: [] for name in task.metrics}}
    with torch.inference_mode():
        for start in range(0, len(task.report), batch):
            inputs, targets = task.report.batch(torch.arange(start, min(start + batch, len(task.report))))
            outputs = model(inputs)
            parts.append(outputs)
            values["loss"].append(task.loss(outputs, targets))
            for name, metric in task.metrics.items():
                if name != "loss":
                    values[name].append(metric(outputs, targets))
    return torch.cat(parts), {name: float(torch.cat(found).double().mean()) for name, found in values.items()}


def read_inputs(path: Path) -> Tensor:
    """Inputs with one row an example: float32, or int64 where the file holds whole numbers.

    Raises:
        BadInput: not ``.npy`` or ``.json``, not readable, not one array of numbers, or empty.
    """
    _check_suffix(path, "--input")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    try:
        if path.suffix == ".npy":
            array = numpy.load(io.BytesIO(data), allow_pickle=False)  # an array of objects is refused, never unpickled
        else:
            array = numpy.asarray(json.loads(data))
    except (ValueError, EOFError, RecursionError) as error:
        raise BadInput(f"{path}: {error}; it must hold one array of numbers, one row an example") from error
    if array.dtype.kind not in "fiub" or array.ndim == 0 or len(array) == 0:
        raise BadInput(
            f"{path}: an array of {array.dtype} and shape {array.shape}; it must hold numbers, one row an example"
        )
    return torch.from_numpy(array.astype(numpy.float32 if array.dtype.kind == "f" else numpy.int64))


def write_outputs(path: Path, outputs: Tensor) -> None:
    """Write ``outputs`` as ``.npy`` or ``.json`` in one step.

    Raises:
        OutputDirectoryError, StorageFull: the disk refuses.
    """
    if path.suffix == ".npy":
        buffer = io.BytesIO()
        numpy.save(buffer, outputs.float().numpy(), allow_pickle=False)
        data = buffer.getvalue()
    else:
        data = _json(outputs.tolist())
    write_atomic(path, data)


def _json(values: Any) -> bytes:
    try:
        return json.dumps(values, allow_nan=False).encode()
    except ValueError as error:
        raise BadInput("the outputs hold numbers that are not finite, which JSON can't; write them as .npy") from error


def _check_suffix(path: Path, option: str) -> None:
    if path.suffix not in (".npy", ".json"):
        raise BadInput(f"{option} {path}: the name must end in .npy or .json")
