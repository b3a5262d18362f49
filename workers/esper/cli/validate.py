"""``esper validate``: everything that can be known about a run without training it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.manifest import importable_beside, load_manifest
from esper.cli.tables import cell, console, table

if TYPE_CHECKING:
    from leyline.resources import TrainingRun

    from esper.kasmina.slots import Slot


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
    sizes = ", ".join(f"{name} {number(len(data))}" for name, data in _splits(task))
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


def _splits(task: object) -> list[tuple[str, Sequence[object]]]:
    return [(name, getattr(task, name)) for name in ("train", "controller", "report")]


def _fitting(slots: Sequence[Slot], wanted: Sequence[str]) -> object:
    """Blueprints that fit at least one slot, with the parameters they would add to each."""
    from leyline.errors import LeylineError

    from esper.karn.catalogue import CATALOGUE
    from esper.output.report.charts import number

    rows = []
    for name, entry in CATALOGUE.items():
        if wanted and name not in wanted:
            continue
        cells = []
        for slot in slots:
            try:
                entry.ir.check(slot.interface)
                cells.append(f"{number(entry.ir.parameter_count(slot.interface))}")
            except LeylineError:
                cells.append("–")
        if any(text != "–" for text in cells):
            rows.append((name, *cells))
    names = [slot.id for slot in slots]
    return table("Blueprints that fit, with the parameters they add", ("blueprint", *names), rows, right=names)
