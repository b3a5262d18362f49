"""What a training pod runs: the same run as on one machine, with the library, the pools and people elsewhere.

It restores itself from its checkpoint, whatever ended it before, and ends with 0 on SIGTERM once a checkpoint is
stored. While the broker, the library or the bucket are away it trains on, within the bounds of each, and says so.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from esper.errors import BadInput, BusError, Interrupted, LibraryError
from esper.kernel.hardware import hardware_target
from esper.kernel.signing import PublicKeys
from esper.objects.s3 import ObjectStore
from esper.output import Progress, Summary
from esper.process import NotReady, Process, writable
from esper.tamiyo import FieldReport
from esper.tolaria.desk import Desk
from esper.tolaria.herald import Herald
from esper.tolaria.ranks import Ranks
from esper.tolaria.store import BucketStore, Committer, DirectoryStore
from esper.tolaria.trainer import Trainer
from esper.urza import Library
from esper.weatherlight.counting import RunCollector
from esper.weatherlight.kernels import Kernels, LentKernels, Prepared
from esper.weatherlight.keys import load_public_keys
from esper.weatherlight.logged import Logged
from esper.weatherlight.outdir import MANIFEST, OutputDirectory
from esper.weatherlight.post import Post
from esper.weatherlight.remote import RemoteKernels
from esper.weatherlight.run import Session, bank_device, check_begun
from esper.weatherlight.settings import TrainSettings
from leyline.interface import Interface
from leyline.resources import TrainingRun

_LOG = structlog.get_logger("esper.train")

STATUS_PATH = "/api/v1/system/status"
LAST_WORDS_SECONDS = 5.0
"""How long a trainer that was asked to stop waits for the broker to take its news; a resume sends them again."""


class StoppedEarly(Interrupted):
    """SIGTERM came before there was anything to checkpoint; no failure."""

    exit_code = 0


def train(
    settings: TrainSettings, manifest: TrainingRun, out: Path, progress: Progress | None = None, *,
    resume: bool | None = None, control: bool = False,
) -> Summary:  # fmt: skip
    """Train a run of an installation.

    Args:
        settings: how broker, library and checkpoints are reached.
        manifest: what to train.
        out: the output directory.
        progress: what a person sees; news go to the log if not given.
        resume: go on from the checkpoint, or begin a new run in a new directory; if not given, whichever can be.
        control: afterwards train the same host without growth on the FLOPs this run spent, for comparison.

    Raises:
        PartsMissing: something it needs can't be used.
        BadInput: the manifest, the task or the checkpoint can't be used.
        RunFailed: the run could not begin, its checkpoints could not be stored or its reports not be told.
        StoppedEarly: SIGTERM came before training began.
    """
    began = time.monotonic()
    name = manifest.metadata.name
    with ExitStack() as stack:
        store = _store(settings, manifest, out)
        commits = Committer(
            store, ahead=settings.checkpoints.ahead if settings.checkpoints.url else 0,
            patience=settings.checkpoints.patience_seconds, last=settings.checkpoints.stop_seconds,
        )  # fmt: skip
        keys: list[PublicKeys] = []
        parts: list[tuple[str, Callable[[], object]]] = [
            ("output", lambda: writable(out)),
            ("cache_dir", lambda: writable(settings.cache_dir)),
            ("public_keys_file", lambda: keys.append(load_public_keys(settings.public_keys_file))),
            ("checkpoints", store.holds_run),
        ]
        process = stack.enter_context(Process(settings, "tolaria", roles=("trainer", "admin"), parts=parts))
        stack.callback(commits.close)
        process.connect()
        ranks = Ranks.meet(manifest.spec)
        stack.callback(ranks.close)
        # A pod is started again with the same arguments whatever became of the one before.
        elsewhere = resume is None or bool(settings.checkpoints.url)
        directory = ranks.lead(lambda: OutputDirectory(out, resume is not False, elsewhere))
        if directory is not None:
            stack.callback(directory.close)
        resume = ranks.share(lambda: _resumes(resume, store, settings, out))
        session = PodSession(
            manifest, out, settings.cache_dir, progress or Logged(name), stack, ranks=ranks, process=process,
            commits=commits if ranks.first else None, keys=keys[0],
        )  # fmt: skip
        try:
            trainer = session.prepare(resume, process.stopping)
        except Interrupted as error:
            if process.stopping.by is signal.SIGTERM:
                raise StoppedEarly(f"{name}: asked to stop before training began; nothing was lost") from error
            raise
        if directory is not None:
            if not resume:
                directory.write_manifest(manifest)
                store.claim()
            commits.leave([MANIFEST], out)
        session.begin()
        phase, reason = session.train(trainer, resume, process.stopping)
        session.phase = phase
        compared = session.control(trainer, process.stopping) if control and phase == "Completed" else None
        summary = session.conclude(trainer, phase, reason, time.monotonic() - began, compared)
        session.last_words(phase, settings.tell_seconds)
        _LOG.info("run ended", run=name, phase=phase, reason=reason)
        return summary


def _resumes(resume: bool | None, store: BucketStore | DirectoryStore, settings: TrainSettings, out: Path) -> bool:
    """Whether there is a run to go on with; with ``resume`` given, whether that fits what is there."""
    if resume is None:
        return store.holds_run() or (out / MANIFEST).exists()
    if settings.checkpoints.url:
        check_begun(store, resume)
    return resume


def _store(settings: TrainSettings, manifest: TrainingRun, out: Path) -> BucketStore | DirectoryStore:
    keep = manifest.spec.checkpoints.keep
    if not settings.checkpoints.url:
        return DirectoryStore(out, keep)
    return BucketStore(ObjectStore(settings.checkpoints.s3()), out, keep)


@dataclass
class PodSession(Session):
    """A session whose library, kernels and listeners are reached through a connected process."""

    process: Process = field(kw_only=True)
    keys: PublicKeys = field(kw_only=True)
    phase: str = "Preparing"
    trainer: Trainer | None = None
    remote: RemoteKernels | None = None
    _told: dict[str, str] = field(default_factory=dict)
    """What is away, in words, by part."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.away = self._library_away
        token = self._token if self.settings.status_token_file is not None else None
        self.process.status.add(STATUS_PATH, self.status, token)
        self.process.registry.register(RunCollector(self.status))
        self.process.ready["checkpoints"] = self._checkpoints_there

    @property
    def settings(self) -> TrainSettings:
        """The process's."""
        settings = self.process.settings
        assert isinstance(settings, TrainSettings)
        return settings

    # -- where things are ----------------------------------------------------------------------------------------------

    def open_library(self) -> Library:
        """See ``Session``: the service; the process closes it."""
        return self.process.library

    def open_kernels(self, library: Library, device: str) -> Kernels:
        """See ``Session``: the pools make them; with several ranks the first one asks and holds them for all."""
        process = self.process
        if not self.ranks.first:
            return LentKernels(library, self.keys, self.library_root, device=device)
        post = Post(process.bus, process.signer, process.trusted, instance=self._instance)
        self.remote = RemoteKernels(
            library, process.bus, post, self.keys, self.manifest.metadata.name, self.library_root, device=device,
            tell=self._note,
        )  # fmt: skip
        self.stack.callback(self.remote.close)
        return self.remote

    def ask_beside(
        self, service: Kernels, interfaces: list[Interface], names: list[str], strategies: list[str]
    ) -> Prepared:
        """See ``Session``: the pools work beside everybody."""
        return service.request(interfaces, names, strategies)

    def reports(self, library: Library) -> Callable[[FieldReport], None]:
        """See ``Session``: reports go by the bus, after the commit they belong to."""

        def report(report: FieldReport) -> None:
            if self.trainer is not None:
                self.trainer.outside.report(report)

        return report

    def join(self, trainer: Trainer) -> None:
        """See ``Session``: the run takes commands and tells its news, by its first rank."""
        run, process = self.manifest.metadata.name, self.process
        self.trainer = trainer
        if not self.ranks.first:
            return
        outside = trainer.outside
        outside.hardware = hardware_target(str(bank_device(trainer.bank)))
        commits = trainer.commits
        assert commits is not None
        outside.herald = Herald(
            process.bus, process.signer, run, self._instance, lambda: commits.store.journal.entries()
        )
        self.stack.callback(outside.herald.close)
        outside.desk = Desk(run, process.bus, process.trusted)
        self.stack.callback(outside.desk.close)

    def begin(self) -> None:
        """Everything is restored: listen and tell."""
        if self.trainer is not None:
            self.trainer.outside.begin()
        self.phase = "Training"

    def last_words(self, phase: str, seconds: float) -> None:
        """Wait until the broker has the run's news.

        Raises:
            BusError: a finished run's reports could not be told; run again, it sends them.
        """
        herald = self.trainer.outside.herald if self.trainer is not None else None
        if herald is None:
            return
        finished = phase == "Completed"
        left = herald.finish(seconds if finished else LAST_WORDS_SECONDS)
        if left and finished:
            raise BusError(
                f"the run is finished, but the broker did not take the news of {left} commits ({herald.problem}); "
                "run it again when the broker is back: it sends them and ends"
            )
        desk = self.trainer.outside.desk if self.trainer is not None else None
        if finished and desk is not None:
            desk.forget()
        if left:
            _LOG.warning("news not sent", commits=left, problem=herald.problem, then="a resume sends them")

    # -- how it is -----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The run as JSON values, for who has the token; safe from any thread, and asks nobody."""
        trainer, process = self.trainer, self.process
        said: dict[str, Any] = {
            "run": self.manifest.metadata.name, "phase": self.phase, "epochs": self.manifest.spec.training.epochs,
            "process": process.producer,
        }  # fmt: skip
        if trainer is None:
            return said | {"conditions": self._conditions(None)}
        outside = trainer.outside
        paused = outside.paused and self.phase == "Training"
        return said | {
            "phase": "Paused" if paused else self.phase,
            "epoch": trainer.epoch, "step": trainer.line.step, "commit": trainer.committed,
            "seeds": outside.seeds,
            "kernels": [
                {"kernel": each.artifact_id, "blueprint": each.blueprint, "strategy": each.strategy}
                for each in (self.shelf.records() if self.shelf is not None else ())
            ],
            "budget": {
                "flops_used": outside.flops, "flops_limit": trainer.spec.budget.training_flops,
                "parameters_limit": trainer.spec.budget.parameters,
            },
            "checkpoints": {
                "place": trainer.commits.store.place if trainer.commits else "",
                "behind": trainer.commits.behind if trainer.commits else 0,
            },
            "news": {"behind": outside.herald.behind if outside.herald else 0},
            "commands": {
                "last": [result.to_dict() for result in list(outside.desk.results)] if outside.desk else [],
                "waiting": outside.desk.waiting if outside.desk else 0,
                "refused": outside.desk.refused() if outside.desk else {},
            },
            "conditions": self._conditions(trainer),
        }  # fmt: skip

    def _conditions(self, trainer: Trainer | None) -> dict[str, str]:
        """What is not as it should be, by part; ``ok`` for what is."""
        with self._lock:
            found = {"library": "ok", "kernels": "ok"} | self._told
        found |= {"bus": "ok", "checkpoints": "ok", "commands": "ok"}
        if trainer is not None:
            outside = trainer.outside
            if outside.herald is not None and outside.herald.problem:
                found["bus"] = outside.herald.problem
            if outside.desk is not None and outside.desk.problem:
                found["commands"] = outside.desk.problem
            if trainer.commits is not None and trainer.commits.trouble:
                found["checkpoints"] = trainer.commits.trouble
        return dict(sorted(found.items()))

    def _checkpoints_there(self) -> None:
        commits = self.trainer.commits if self.trainer is not None else None
        if commits is not None and commits.trouble:
            raise NotReady("checkpoints can't be stored")

    def _note(self, words: str) -> None:
        """What the kernels' side says: ``part: error; …`` when something is away, ``part: back`` afterwards."""
        part, _, said = words.partition(": ")
        with self._lock:
            self._told["library" if part == "library" else "kernels"] = "ok" if said == "back" else said
        self.progress.message(words, "info" if said == "back" else "warning")

    def _library_away(self, error: LibraryError) -> None:
        if self.remote is not None:
            self.remote.away(error)

    def _records(self) -> list[Any]:
        try:
            return super()._records()
        except LibraryError as error:
            self.progress.message(f"{error}; the summary holds the kernels the run was offered, no others", "warning")
            return self.shelf.records() if self.shelf is not None else []

    def _token(self) -> str:
        path = self.settings.status_token_file
        try:
            return path.read_text(encoding="utf-8").strip() if path is not None else ""
        except OSError as error:
            raise BadInput(f"status_token_file {path}: {error.strerror or error}") from error

    @property
    def _instance(self) -> str:
        return self.process.producer.partition("/")[2]
