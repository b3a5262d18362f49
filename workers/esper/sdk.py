"""Esper from Python: the same run as ``esper run``, in a script or a notebook.

A model of your own is wrapped with slots, a controller is chosen, a trainer does the rest::

    import esper

    config = esper.load_config("trainingrun.yaml")
    task = esper.load_task(config)
    model = esper.wrap(task.model, config.spec.slots)
    controller = esper.TamiyoController(config.spec)
    summary = esper.TolariaTrainer(model, controller, config, task=task).train()
    esper.save_model(model, "model")
    grown = esper.load_model("model")
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper import tasks
from esper.errors import BadInput, Diverged, ManifestError
from esper.kasmina import SeedSettings, bank_of
from esper.kasmina import wrap as _wrap
from esper.kasmina.sample import Sample
from esper.output import Progress, Silent, Summary
from esper.tamiyo import TamiyoController
from esper.tasks import Task
from esper.tolaria.device import pick_device
from esper.weatherlight.outdir import OutputDirectory
from esper.weatherlight.run import LIBRARY, Session
from esper.weatherlight.stopping import StopRequest
from leyline.resources import ManifestErrors, TrainingRun, load


def load_config(source: str | Path | dict[str, Any]) -> TrainingRun:
    """Read a TrainingRun from a file, or take one that was built as a dictionary.

    Raises:
        ManifestError: with a line for each wrong field.
        BadInput: the file can't be read.
    """
    try:
        if isinstance(source, dict):
            return load(source)
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"can't read the manifest {source}: {error}") from error
        return load(text, source=str(source))
    except ManifestErrors as errors:
        raise ManifestError([str(error) for error in errors.errors], str(source)[:80]) from errors


def load_task(config: TrainingRun) -> Task:
    """Model, data, loss and metrics of a manifest's task.

    Raises:
        TaskError: see :func:`esper.tasks.load_task`.
    """
    return tasks.load_task(config.spec.task.ref, config.spec.task.params, config.spec.seed)


def wrap(model: nn.Module, slots: str | Iterable[Any], sample: Sample | None = None) -> nn.Module:
    """Give a model places where it may grow, and return the same model.

    Args:
        model: any module; class, parameters and ``state_dict`` keys stay as they are.
        slots: module-path globs (``"blocks.*"``) or a manifest's ``spec.slots``.
        sample: a batch of inputs to find the slots' shapes with; the trainer takes one from the task if it is left out.

    Raises:
        SlotError: a glob matches nothing, or a module can't carry a seed.
    """
    _wrap(model, slots, sample)
    return model


class TolariaTrainer:
    """Trains a wrapped model as ``esper run`` would.

    Args:
        model: a model that went through :func:`wrap`.
        controller: decides what grows.
        config: the manifest.
        task: data, loss and metrics; the manifest's task if not given. Its own model is not used.
        out: keep events, checkpoints, summary, report and model here.
        library: directory of the kernel library (default: ``library`` beside ``out``).
        progress: what to show; nothing by default.
    """

    def __init__(
        self, model: nn.Module, controller: TamiyoController, config: TrainingRun, *, task: Task | None = None,
        out: str | Path = "runs/sdk", library: str | Path | None = None, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.model, self.controller, self.config = model, controller, config
        self.task = dataclasses.replace(task or load_task(config), model=model)
        self.out = Path(out)
        self.library = Path(library if library is not None else self.out.parent / LIBRARY).absolute()
        self.progress: Progress = progress or Silent()

    def train(self, resume: bool = False) -> Summary:
        """Train to the end of the budget; Ctrl-C stops after a checkpoint.

        Raises:
            BadInput: something given can't be used; nothing was trained.
            Diverged: the run failed; the summary in ``out`` says why.
        """
        began = time.monotonic()
        with ExitStack() as stack:
            directory = OutputDirectory(self.out, resume)
            stack.callback(directory.close)
            bank = bank_of(self.model)
            device = pick_device(self.config.spec.training.device)
            self.model.to(device)
            if not bank.slots:
                sample, _ = self.task.train.batch(torch.arange(2))
                bank.measure(sample.to(device))
            # wrap() knows nothing of the manifest: its limits, blend and budget reach the seeds here
            settings = SeedSettings.from_spec(self.config.spec)
            if bank.settings != settings:
                bank.configure(settings)
            session = Session(
                self.config, self.out, self.library, self.progress, stack, given=(self.task, bank),
                controller=self.controller,
            )  # fmt: skip
            stop = stack.enter_context(StopRequest())
            try:
                trainer = session.prepare(resume, stop)
            except BaseException:
                directory.abandon()
                raise
            if not resume:
                directory.write_manifest(self.config)
            phase, reason = session.train(trainer, resume, stop)
            summary = session.conclude(trainer, phase, reason, time.monotonic() - began, None)
        if phase == "Failed":
            raise Diverged(reason)
        return summary
