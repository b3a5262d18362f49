"""One manifest, one machine: the organs composed into a run, from a file to a report.

What is composed here and nowhere else: the task, the wrapped model, the kernel pipeline with its background processes,
the controller, the trainer, and what the run leaves behind. Nothing here decides anything.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from esper.errors import BadInput, LibraryError, OutputDirectoryError, RunFailed
from esper.karn.catalogue import CATALOGUE
from esper.kasmina import SeedBank, wrap
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.output import Control, Progress, Silent, Summary
from esper.output.report import write_report
from esper.persist import save_model
from esper.tamiyo import FieldReport, FieldReportLog, TamiyoController
from esper.tamiyo.reports import deliver
from esper.tasks import Task, load_task
from esper.tolaria.device import pick_device, set_threads
from esper.tolaria.line import Stopped
from esper.tolaria.ranks import ALONE, Ranks
from esper.tolaria.recorder import Recorder
from esper.tolaria.store import BucketStore, Checkpoint, CheckpointStore, Committer
from esper.tolaria.summarise import control_summary, summarise, versions
from esper.tolaria.trainer import Trainer
from esper.urza import Library, SqlLibrary
from esper.weatherlight.beside import KernelProcess
from esper.weatherlight.kernels import Kernels, Prepared
from esper.weatherlight.outdir import MANIFEST, OutputDirectory
from esper.weatherlight.pools import KernelService
from esper.weatherlight.shelf import RunShelf
from esper.weatherlight.stopping import StopAsked, StopRequest
from esper.weatherlight.wanted import check_usable, designs
from leyline.interface import Interface
from leyline.resources import TrainingRun
from leyline.resources.enums import PolicyName

RESULTS = ["summary.json", "report.html", "model"]
"""What of the output directory is kept with a run whose checkpoints are elsewhere."""
LIBRARY = "library"
"""The library's directory, beside the runs' own: kernels certified for one run serve the next."""


def run(
    manifest: TrainingRun, out: Path, resume: bool = False, progress: Progress | None = None, *,
    library: Path | None = None, control: bool = False, checkpoints: str = "",
) -> Summary:  # fmt: skip
    """Train a manifest on this machine and leave summary, events, report and model in ``out``.

    Args:
        manifest: what to train.
        out: the output directory.
        resume: go on from the newest whole checkpoint.
        progress: what the user sees.
        library: directory of the kernel library; beside ``out`` if not given.
        control: afterwards train the same host without growth on the FLOPs this run spent, for comparison.
        checkpoints: ``s3://bucket/prefix`` where checkpoints are kept; in ``out`` if not given.

    Returns:
        The summary; ``phase`` says how the run ended.

    Raises:
        BadInput: the manifest, the task, the slots, the budget or the directory can't be used; nothing was trained.
        RunFailed: the run could not even begin.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        ranks = Ranks.meet(manifest.spec)
        stack.callback(ranks.close)
        directory = ranks.lead(lambda: OutputDirectory(out, resume, elsewhere=bool(checkpoints)))
        kept = None
        if directory is not None:
            stack.callback(directory.close)
        if checkpoints:
            kept = ranks.lead(lambda: committer(out, manifest.spec.checkpoints.keep, checkpoints, resume, stack))
        # absolute, because the processes that build kernels work in directories of their own
        root = Path(library or out.parent / LIBRARY).absolute()
        session = Session(manifest, out, root, progress or Silent(), stack, commits=kept, ranks=ranks)
        stop = stack.enter_context(StopRequest())
        try:
            trainer = session.prepare(resume, stop)
        except BaseException:
            if directory is not None:
                directory.abandon()
            raise
        # Only now is there something to resume: what was wrong with the input can be put right and run again.
        if directory is not None and (not resume or not (out / MANIFEST).exists()):
            directory.write_manifest(manifest)
        if kept is not None and not resume:
            kept.store.claim()
            kept.leave([MANIFEST], out)
        phase, reason = session.train(trainer, resume, stop)
        compared = session.control(trainer, stop) if control and phase == "Completed" else None
        return session.conclude(trainer, phase, reason, time.monotonic() - began, compared)


@dataclass
class Session:
    """One process's work on one run; with several ranks each has one, and the first does what is done once."""

    manifest: TrainingRun
    out: Path
    library_root: Path
    progress: Progress
    stack: ExitStack
    unavailable: Mapping[str, str] = field(default_factory=dict)
    library: Library | None = None
    verdicts: list[Any] = field(default_factory=list)
    given: tuple[Task, SeedBank] | None = None
    """Task and wrapped model of a caller who built them; otherwise the manifest's task is loaded."""
    controller: TamiyoController | None = None
    commits: Committer | None = None
    """Where checkpoints go, if not into ``out``."""
    shelf: RunShelf | None = None
    ranks: Ranks = ALONE
    _events_offset: int | None = None

    def prepare(self, resume: bool, stop: StopAsked) -> Trainer:
        """Build everything a run consists of; with ``kernels.prepare: BeforeTraining`` certify its first kernels.

        With several ranks the first one comes first: it makes what the others use (the library, its keys, its kernels).
        """
        self.ranks.check_batch(self.manifest.spec.training.batch_size)
        early = self.ranks.asked_early(stop)
        built = self.ranks.lead(lambda: self._build(resume, early))
        trainer, checkpoint = self.ranks.together(lambda: self._build(resume, stop) if built is None else built)
        if resume:
            # Without a checkpoint the run begins anew, and with it its log.
            found = self.ranks.share(lambda: checkpoint is not None)
            self._events_offset = trainer.resume(checkpoint) if found else 0
        return trainer

    def _build(self, resume: bool, stop: Callable[[], bool]) -> tuple[Trainer, Checkpoint | None]:
        """The trainer, and the checkpoint it goes on from; only the first rank has one, and asks for kernels."""
        spec, first = self.manifest.spec, self.ranks.first
        set_threads(spec.training.threads)
        task, bank = self.given or self.host()
        out = self.out if first else None
        recorder = Recorder(out, self.progress)
        self.library = library = self.open_library()
        grows = str(spec.controller.policy) != "Never"
        device = str(bank_device(bank))
        service = self.open_kernels(library, device)
        interfaces = {name: slot.interface for name, slot in bank.slots.items()}
        self.shelf = shelf = RunShelf(
            library, service, interfaces, spec, hardware_target(device), toolchain_hash(), away=self.away
        )
        controller = self.controller or TamiyoController(spec, library, on_report=self.reports(library))
        trainer = Trainer(
            self.manifest, task, bank, controller, shelf, recorder, out, local_task=self.given is not None,
            commits=self.commits, ranks=self.ranks,
        )  # fmt: skip
        if trainer.commits is not None:
            trainer.commits.say = recorder.warning
        self.join(trainer)
        if not first:
            return trainer, None
        checkpoint = trainer.newest() if resume else None
        if checkpoint is not None:
            shelf.load(checkpoint.state["portfolio"])
        if grows:
            self.kernels(service, list(dict.fromkeys(interfaces.values())), shelf, stop)
        return trainer, checkpoint

    # -- what is another in an installation of several processes ------------------------------------------------------

    away: Callable[[LibraryError], object] | None = None
    """Told that the library can't be asked while the run goes on; if None, that ends the run."""

    def open_library(self) -> Library:
        """The library, closed with the session."""
        library = SqlLibrary.open(self.library_root)
        self.stack.callback(library.close)
        return library

    def open_kernels(self, library: Library, device: str) -> Kernels:
        """Who makes kernels, closed with the session."""
        spec = self.manifest.spec.kernels
        # While training waits for kernels, nothing is lost by building on every core.
        builders = min(4, os.cpu_count() or 1) if str(spec.prepare) == "BeforeTraining" else None
        service = KernelService(library, self.library_root, spec, processes=builders)
        self.stack.callback(service.close)
        return service

    def ask_beside(
        self, service: Kernels, interfaces: list[Interface], names: list[str], strategies: list[str]
    ) -> Prepared:
        """Have a portfolio made while training goes on."""
        prepared = service.enter(interfaces, names, strategies)
        beside = KernelProcess(
            self.library_root, self.manifest.spec.kernels, lambda words: self.progress.message(words, "warning")
        )
        self.stack.callback(beside.close)
        beside.request(interfaces, names, strategies)
        return prepared

    def reports(self, library: Library) -> Callable[[FieldReport], None]:
        """Who is told how each seed did."""
        return deliver(FieldReportLog(self.library_root / "field-reports.jsonl"), library)

    def join(self, trainer: Trainer) -> None:
        """The trainer is made and nothing of it restored yet."""

    # ------------------------------------------------------------------------------------------------------------------

    def host(self) -> tuple[Task, SeedBank]:
        """The task and its wrapped model."""
        spec = self.manifest.spec
        self.progress.phase("loading the task")
        task = load_task(spec.task.ref, spec.task.params, spec.seed)
        device = pick_device(spec.training.device)
        task.model.to(device)
        sample, _ = task.train.batch(torch.arange(2))
        return task, wrap(task.model, spec.slots, sample.to(device), spec=spec)

    def kernels(
        self, service: Kernels, interfaces: list[Interface], shelf: RunShelf, stop: Callable[[], bool]
    ) -> None:  # fmt: skip
        """Ask for the portfolio; wait for it, or let it arrive while training goes on."""
        spec = self.manifest.spec.kernels
        names = list(spec.blueprints) or list(CATALOGUE)
        if spec.blueprints and self.library is not None:
            check_usable(designs(names, self.library), interfaces)
        strategies = [str(strategy).lower() for strategy in spec.strategies]
        if str(spec.prepare) == "BeforeTraining":
            if shelf.records() and shelf.fetchable():
                return  # the portfolio is part of the run's state; a resume does not certify it anew
            self.progress.phase("preparing kernels")
            waited = time.monotonic()
            prepared = service.prepare(interfaces, names, strategies, self.progress.kernel, stop)
            shelf.wait_seconds += time.monotonic() - waited
        else:
            prepared = self.ask_beside(service, interfaces, names, strategies)
        self.unavailable = prepared.unavailable
        for strategy, why in prepared.unavailable.items():
            self.progress.message(f"strategy {strategy} is not available here ({why}); fast is used", "warning")
        self.verdicts = list(prepared.artifacts)

    def train(self, trainer: Trainer, resume: bool, stop: StopAsked) -> tuple[str, str]:
        """Train to the end, or to whatever ends it; returns phase and reason."""
        recorder = trainer.recorder
        recorder.open(trainer.task.metric, self._events_offset, trainer.line.step)
        self.stack.callback(recorder.close)
        recorder.at(trainer.epoch, trainer.line.step)
        recorder.started(
            name=self.manifest.metadata.name, task=self.manifest.spec.task.ref, seed=self.manifest.spec.seed,
            resumed=resume, manifest=self.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
            versions=versions(), host_parameters=sum(p.numel() for p in trainer.line.model.parameters()),
            metric=trainer.task.metric, slots={name: str(slot.interface) for name, slot in trainer.bank.slots.items()},
        )  # fmt: skip
        for verdict in self.verdicts:
            recorder.kernel(**verdict)
        self.progress.phase("training")
        try:
            trainer.train(stop)
        except Stopped:
            if self.ranks.reason_to_stop(stop) is signal.SIGTERM:
                return "Suspended", "SIGTERM: a checkpoint was written; continue with --resume"
            return "Interrupted", "interrupted: a checkpoint was written; continue with --resume"
        except RunFailed as error:
            if self.ranks.lost and not self.ranks.first:
                raise  # there is nobody to conclude the run with
            return "Failed", str(error)
        return "Completed", "the budget is spent"

    def control(self, trainer: Trainer, stop: StopAsked) -> Control | None:
        """Train the host without growth on as many FLOPs as the run has spent; None when asked to stop meanwhile."""
        self.progress.phase("training the control that never grows")
        spec = self.manifest.spec
        longer = max(spec.training.epochs, trainer.ledger.total // max(1, _epoch_flops(trainer)) + 1)
        changed = spec.model_copy(
            update={
                "training": spec.training.model_copy(update={"epochs": longer}),
                "budget": spec.budget.model_copy(update={"training_flops": trainer.ledger.total}),
                "controller": spec.controller.model_copy(update={"policy": PolicyName.NEVER}),
            }
        )
        manifest = self.manifest.model_copy(update={"spec": changed})
        other = Session(manifest, self.out, self.library_root, Silent(), self.stack)
        task, bank = other.host()
        never = Trainer(
            manifest, task, bank, TamiyoController(changed), trainer.shelf, Recorder(None, Silent()), ranks=self.ranks
        )
        try:
            never.train(stop)
        except (Stopped, RunFailed) as error:
            self.progress.message(f"the control did not finish: {error}", "warning")
            return None
        return control_summary(never)

    def conclude(
        self, trainer: Trainer, phase: str, reason: str, seconds: float, compared: Control | None
    ) -> Summary:  # fmt: skip
        """Write model, summary and report; with several ranks the first one does, and all return its summary."""
        if self.ranks.alone or self.ranks.lost:
            return self._conclude(trainer, phase, reason, seconds, compared)
        return Summary.model_validate_json(
            self.ranks.share(lambda: self._conclude(trainer, phase, reason, seconds, compared).model_dump_json())
        )

    def _conclude(
        self, trainer: Trainer, phase: str, reason: str, seconds: float, compared: Control | None
    ) -> Summary:  # fmt: skip
        trainer.recorder.finished(phase, reason, seconds)
        trainer.recorder.close()
        records = self._records()
        summary = summarise(
            trainer, phase=phase, reason=reason, wall_seconds=seconds, records=records,
            unavailable=self.unavailable, control=compared,
        )  # fmt: skip
        if phase == "Completed":
            save_model(
                trainer.line.model, self.out / "model",
                {"run": self.manifest.metadata.name, "task": self._task(), "verdicts": trainer.history.verdicts},
            )  # fmt: skip
        summary.write(self.out)
        write_report(self.out)
        if phase == "Completed" and self.commits is not None:
            self.commits.leave(RESULTS, self.out)
        return summary

    def _task(self) -> dict[str, Any] | None:
        """How to build the host again; a model that came as an object can only be loaded into a host that is given."""
        if self.given is not None:
            return None
        spec = self.manifest.spec
        return {"ref": spec.task.ref, "params": dict(spec.task.params), "seed": spec.seed}

    def _records(self) -> list[Any]:
        known = {record.artifact_id: record for record in self.shelf.records()} if self.shelf is not None else {}
        if self.library is not None:
            for verdict in self.verdicts:
                if verdict["kernel"] not in known:  # rejected or noisy: not on offer, but people want to know why
                    known[verdict["kernel"]] = self.library.record(verdict["kernel"])
        return [known[artifact] for artifact in sorted(known)]


def committer(out: Path, keep: int, url: str, resume: bool, stack: ExitStack) -> Committer:
    """Checkpoints in a bucket, closed with ``stack``; settings but the address are the environment's.

    Raises:
        BadInput: a setting is wrong, the extra is missing, or there is (not) a run to resume.
        ObjectStoreError: the bucket can't be used.
    """
    try:
        from esper.objects.s3 import ObjectStore
        from esper.settings import load_settings
        from esper.tolaria.store.settings import CheckpointSettings
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{error.name} is not installed; checkpoints in a bucket need the extra: esper-train[worker]"
        ) from error
    settings = load_settings(CheckpointSettings, what="settings of the checkpoints", url=url)
    store = BucketStore(ObjectStore(settings.s3()), out, keep)
    commits = Committer(store, ahead=settings.ahead, patience=settings.patience_seconds, last=settings.stop_seconds)
    stack.callback(commits.close)
    check_begun(store, resume)
    return commits


def check_begun(store: CheckpointStore, resume: bool) -> None:
    """Begin only where there is no run, and resume only where there is one; raises ``OutputDirectoryError``."""
    if store.holds_run() != resume:
        raise OutputDirectoryError(
            f"{store.place} holds no run to resume; leave --resume out to start one"
            if resume
            else f"{store.place} already holds a run; go on with --resume, or choose another prefix"
        )


def bank_device(bank: SeedBank) -> torch.device:
    """Where the model is."""
    return next((tensor.device for tensor in bank.host_tensors().values()), torch.device("cpu"))


def _epoch_flops(trainer: Trainer) -> int:
    costs = trainer.costs()
    return costs.step * costs.steps_per_epoch
