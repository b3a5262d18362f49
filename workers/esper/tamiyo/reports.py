"""Field reports: what became of each seed, kept for those who choose and build kernels."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leyline import canonical

if TYPE_CHECKING:
    from esper.urza.library import FieldReport as LibraryReport
    from esper.urza.library import Library

RETENTION_HOURS = 24.0


@dataclass(frozen=True, slots=True)
class FieldReport:
    """The outcome of one seed.

    ``outcome`` is the name of the stage that ended it (FOSSILIZED, CULLED, CANCELLED, ROLLED_BACK); losses and metrics
    are those of the controller split before germination and at the end, ``None`` where there was none; epochs count
    finished epochs.
    """

    run: str
    seed: str
    slot: str
    blueprint: str
    artifact_id: str
    outcome: str
    reason: str
    germinated_epoch: int
    finished_epoch: int
    pre_loss: float | None = None
    post_loss: float | None = None
    pre_metric: float | None = None
    post_metric: float | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for a report that is made again after a resume: it names the event, not the writing."""
        return canonical.digest([self.run, self.seed, self.artifact_id, self.germinated_epoch, self.outcome])[:32]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "measurements": dict(self.measurements)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FieldReport:
        """The inverse of ``to_dict``."""
        return cls(**data)


def deliver(log: FieldReportLog | None = None, library: Library | None = None) -> Callable[[FieldReport], None]:
    """A receiver of reports that writes them to a log and to a library, each only once however often it is called.

    The library gets the controller metrics, or the losses where the task has no metric yet.
    """

    def receive(report: FieldReport) -> None:
        if log is not None:
            log.append(report)
        if library is not None:
            library.field_report(_for_library(report))

    return receive


def _for_library(report: FieldReport) -> LibraryReport:
    from esper.urza.library import FieldReport as LibraryReport

    measured = report.pre_metric is not None and report.post_metric is not None
    return LibraryReport(
        message_id=report.id,
        run=report.run,
        seed=report.seed,
        blueprint=report.blueprint,
        artifact_id=report.artifact_id,
        outcome=report.outcome,
        pre_metric=report.pre_metric if measured else report.pre_loss,
        post_metric=report.post_metric if measured else report.post_loss,
        measurements=dict(report.measurements),
    )


class FieldReportLog:
    """An append-only file of reports, one JSON object a line, each written once however often it is offered.

    A line cut short by a crash is passed over on reading and completed away on the next append. ``clock`` gives the
    seconds since 1970 that a line is stamped with; nothing but retention reads them.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._ids = {line["id"] for line in self._lines()}

    def append(self, report: FieldReport) -> bool:
        """Write and fsync one report; false if it is there already."""
        if report.id in self._ids:
            return False
        line = canonical.dumps({"at": self._clock(), "id": report.id, "report": report.to_dict()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write((b"\n" if self._torn() else b"") + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._ids.add(report.id)
        return True

    def read(self) -> list[FieldReport]:
        """All reports, oldest first."""
        return [FieldReport.from_dict(line["report"]) for line in self._lines()]

    def retain(self, hours: float = RETENTION_HOURS) -> int:
        """Drop the reports older than ``hours``; how many were dropped. The file is replaced in one step."""
        lines = list(self._lines())
        oldest = self._clock() - hours * 3600.0
        kept = [line for line in lines if line["at"] >= oldest]
        if len(kept) == len(lines):
            return 0
        aside = self.path.with_name(self.path.name + ".new")
        with aside.open("wb") as file:
            file.writelines(canonical.dumps(line) + b"\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.path)
        self._ids = {line["id"] for line in kept}
        return len(lines) - len(kept)

    def _torn(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # a write that a crash cut short; the report is offered again after the resume
                if isinstance(line, dict) and line.keys() >= {"at", "id", "report"}:
                    yield line
