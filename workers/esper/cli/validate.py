"""``esper validate``: everything that can be known about a run without training it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.manifest import importable_beside, load_manifest
from esper.cli.tables import cell, console, table
from esper.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from esper.kasmina import Slot
    from esper.tasks import Task
    from leyline.resources import TrainingRun


def validate_manifest(file: Path, overrides: Sequence[str], fields_only: bool) -> None:
    """Check ``file`` and say what was found.

    Raises:
        BadInput: the manifest, its task or its slots are wrong.
    """
    manifest = load_manifest(file, overrides)
    out = console()
    out.print(cell(f"{file}: the fields of run {manifest.metadata.name} are right"))
    if fields_only:
        return
    importable_beside(file)
    _check_task(manifest)


def _check_task(manifest: TrainingRun) -> None:
    import torch

    from esper.kasmina.slots import measure
    from esper.output.report.charts import number
    from esper.tasks import load_task

    spec, out = manifest.spec, console()
    task = load_task(spec.task.ref, spec.task.params, spec.seed)
    sizes = ", ".join(f"{name} {number(size)}" for name, size in _splits(task))
    inputs, _ = task.train.batch(torch.arange(min(2, len(task.train))))
    slots, flops = measure(task.model, spec.slots, inputs)
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    out.print(cell(f"task {spec.task.ref}: {sizes} examples; metric {task.metric}"))
    out.print(
        cell(f"host {type(task.model).__name__}: {number(parameters)} parameters, {number(flops)} FLOPs a sample")
    )
    rows = [
        (slot.id, slot.interface.layout.value, str(tuple(slot.interface.shape(1))[1:]), slot.calls)
        for slot in slots.values()
    ]
    out.print()
    out.print(table("Slots", ("slot", "layout", "shape", "calls"), rows, right=("calls",)))
    out.print()
    out.print(_fitting(list(slots.values()), spec.kernels.blueprints))


def _splits(task: Task) -> list[tuple[str, int]]:
    return [(name, len(getattr(task, name))) for name in ("train", "controller", "report")]


def _fitting(slots: Sequence[Slot], wanted: Sequence[str]) -> Table:
    """Blueprints that fit at least one slot, with the parameters they would add to each.

    Raises:
        BadInput: a wanted blueprint is not in the catalogue, or fits none of the slots.
    """
    from esper.karn.catalogue import CATALOGUE, entry
    from esper.output.report.charts import number

    rows = []
    for item in [entry(name) for name in wanted] if wanted else CATALOGUE.values():
        sizes = [item.ir.parameter_count(slot.interface) if item.fits(slot.interface) else None for slot in slots]
        if any(size is not None for size in sizes):
            rows.append((item.name, *(number(size) for size in sizes)))
        elif wanted:
            layouts = ", ".join(layout.value for layout in item.layouts)
            raise BadInput(f"kernels.blueprints: {item.name} is for {layouts} and fits none of the slots")
    names = [slot.id for slot in slots]
    return table("Blueprints that fit, with the parameters they add", ("blueprint", *names), rows, right=names)
