"""Reading a run's directory back: the events folded into epochs, seed histories, decisions and kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.errors import OutputDirectoryError
from esper.output.events import EVENTS_FILE, Kind, read_events
from esper.output.summary import SUMMARY_FILE, Summary, read_summary

Event = dict[str, Any]

#: Stages in which a seed's life ends; the next germination under the same id is another life.
_ENDS = frozenset({"CULLED", "CANCELLED", "ROLLED_BACK", "DORMANT"})


@dataclass
class StageSpan:
    """A seed was in ``stage`` from the boundary after epoch ``start`` to the one after ``end`` (None: still is)."""

    stage: str
    start: int
    end: int | None
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class SeedHistory:
    """One life of a seed: a slot may carry several seeds one after the other under the same id."""

    id: str
    slot: str
    life: int
    blueprint: str = ""
    kernel: str = ""
    strategy: str = ""
    spans: list[StageSpan] = field(default_factory=list)
    gates: list[Event] = field(default_factory=list)
    verdicts: list[Event] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """The last stage."""
        return self.spans[-1].stage

    @property
    def why(self) -> str:
        """Why it ended as it did: the judge's words where it was kept, else the reason of the last transition."""
        judged = str(self.verdicts[-1].get("reason") or "") if self.verdicts and self.stage == "FOSSILIZED" else ""
        return judged or self.spans[-1].reason

    @property
    def label(self) -> str:
        """The id, with the life where it is not the first."""
        return self.id if self.life == 1 else f"{self.id} ({self.life})"


@dataclass
class RunRecord:
    """Everything a run's directory says about it; ``summary`` is None while the run goes on or when it was killed."""

    directory: Path
    summary: Summary | None
    started: Event = field(default_factory=dict)
    finished: Event = field(default_factory=dict)
    epochs: list[Event] = field(default_factory=list)
    seeds: list[SeedHistory] = field(default_factory=list)
    decisions: list[Event] = field(default_factory=list)
    verdicts: list[Event] = field(default_factory=list)
    gates: list[Event] = field(default_factory=list)
    kernels: list[Event] = field(default_factory=list)
    rollbacks: list[Event] = field(default_factory=list)
    checkpoints: list[Event] = field(default_factory=list)
    warnings: list[Event] = field(default_factory=list)
    resumes: int = 0

    @property
    def name(self) -> str:
        """The run's name, or the directory's."""
        return self.summary.name if self.summary else str(self.started.get("name") or self.directory.resolve().name)

    @property
    def phase(self) -> str:
        """The summary's phase; "Unfinished" while there is none."""
        return self.summary.phase if self.summary else "Unfinished"

    @property
    def manifest(self) -> dict[str, Any]:
        """The resolved manifest the run was started with."""
        manifest = self.started.get("manifest")
        return manifest if isinstance(manifest, dict) else {}

    @property
    def last_epoch(self) -> int:
        """The last epoch that counts."""
        return int(self.epochs[-1]["epoch"]) if self.epochs else 0

    @property
    def metric(self) -> str:
        """Name of the metric the run is judged by."""
        return self.summary.metric if self.summary else str(self.started.get("metric") or "metric")


def read_run(directory: Path) -> RunRecord:
    """Read the run in ``directory``, finished or not.

    Raises:
        OutputDirectoryError: it is not a run, or its files were not written by Esper.
    """
    directory = Path(directory)
    has_summary, has_events = (directory / SUMMARY_FILE).exists(), (directory / EVENTS_FILE).exists()
    if not has_summary and not has_events:
        raise OutputDirectoryError(
            f"{directory} is not a run: it has neither {EVENTS_FILE} nor {SUMMARY_FILE}; give the directory named by -o"
        )
    record = RunRecord(directory, read_summary(directory) if has_summary else None)
    if has_events:
        folder = _Folder(record)
        for event in read_events(directory / EVENTS_FILE):
            folder.add(event)
        folder.close()
    return record


class _Folder:
    """Folds events in order; a rollback takes back what it undid, so that no epoch is told twice."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._epochs: dict[int, Event] = {}
        self._kernels: dict[str, Event] = {}
        self._lives: dict[str, list[SeedHistory]] = {}

    def add(self, event: Event) -> None:
        record, kind = self._record, event["kind"]
        if kind == Kind.RUN_STARTED:
            record.resumes += bool(event.get("resumed"))
            record.started = event
            record.finished = {}
        elif kind == Kind.EPOCH:
            self._epochs[int(event["epoch"])] = event
        elif kind == Kind.SEED:
            self._seed(event)
        elif kind == Kind.DECISION:
            record.decisions.append(event)
        elif kind == Kind.VERDICT:
            record.verdicts.append(event)
            self._life(event).verdicts.append(event)
        elif kind == Kind.GATE:
            record.gates.append(event)
            self._life(event).gates.append(event)
        elif kind == Kind.KERNEL:
            self._kernels[str(event.get("kernel"))] = event
        elif kind == Kind.ROLLBACK:
            self._rollback(event)
        elif kind == Kind.CHECKPOINT:
            record.checkpoints.append(event)
        elif kind == Kind.WARNING:
            record.warnings.append(event)
        elif kind == Kind.RUN_FINISHED:
            record.finished = event

    def close(self) -> None:
        record = self._record
        record.epochs = [self._epochs[number] for number in sorted(self._epochs)]
        record.kernels = list(self._kernels.values())
        lives = [life for lives in self._lives.values() for life in lives if life.spans]
        record.seeds = sorted(lives, key=lambda life: (life.spans[0].start, life.id))

    def _life(self, event: Event) -> SeedHistory:
        """The seed's present life; a gate before germination (G0) opens the first one."""
        name = str(event.get("seed") or "?")
        lives = self._lives.setdefault(name, [])
        if not lives:
            lives.append(SeedHistory(name, str(event.get("slot") or name.rpartition("/")[0]), 1))
        return lives[-1]

    def _seed(self, event: Event) -> None:
        life, epoch, target = self._life(event), int(event["epoch"]), str(event.get("target"))
        if life.spans:
            if life.spans[-1].end is None:
                life.spans[-1].end = epoch
            if target != "DORMANT" and life.stage in _ENDS:
                life = SeedHistory(life.id, life.slot, life.life + 1)
                self._lives[life.id].append(life)
        for name in ("slot", "blueprint", "kernel", "strategy"):
            if event.get(name):
                setattr(life, name, str(event[name]))
        if target == "DORMANT":  # the slot is free again: the life ended with the stage before
            return
        end = epoch if target in _ENDS else None
        life.spans.append(
            StageSpan(target, epoch, end, str(event.get("reason") or ""), dict(event.get("numbers") or {}))
        )

    def _rollback(self, event: Event) -> None:
        self._record.rollbacks.append(event)
        to_epoch = event.get("to_epoch")
        back_to = int(event["epoch"] if to_epoch is None else to_epoch)
        self._epochs = {number: stats for number, stats in self._epochs.items() if number <= back_to}
        for lives in self._lives.values():
            for life in lives:
                kept = [span for span in life.spans if span.start <= back_to or span.stage == "ROLLED_BACK"]
                if kept and kept[-1].stage not in _ENDS and kept[-1].end is not None and kept[-1].end > back_to:
                    kept[-1].end = None
                life.spans = kept
