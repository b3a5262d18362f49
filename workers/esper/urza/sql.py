"""The library on SQLite and a blob store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from esper.urza import checks, designs, offers, schema, shelf, states
from esper.urza.blobs import BlobStore, DirectoryBlobs
from esper.urza.database import Database
from esper.urza.errors import InvalidEntry, UnknownArtifact
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Lineage,
    Report,
    State,
    Swept,
)
from esper.urza.models import ChangeRow, FieldReportRow, FileRow, ReportRow
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.errors import FieldError
from leyline.identity import ArtifactId
from leyline.interface import Interface

DATABASE = "urza.sqlite"
BLOBS = "blobs"


class SqlLibrary:
    """See ``Library`` for what each method promises.

    ``url`` names a SQLite file (``sqlite:///path`` or a path), ``blobs`` a directory or a store. Opening brings the
    schema up to date. ``clock`` gives seconds since 1970; times are for people, nothing is decided by them.

    Raises:
        LibraryUnavailable, LibraryFull: file or directory can't be opened or written.
        SchemaTooNew: a newer Esper wrote it.
        LibraryError: the URL is not one of SQLite, or the file holds something else.
    """

    def __init__(
        self,
        url: str | Path,
        blobs: BlobStore | Path | str,
        *,
        busy_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._blobs = DirectoryBlobs(blobs) if isinstance(blobs, Path | str) else blobs
        self._database = Database(url, busy_seconds=busy_seconds)
        # SQLite lets a waiting writer starve behind others of its own process; a lock queues them fairly.
        self._writer = threading.Lock()
        try:
            schema.upgrade(self._database)
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def open(cls, directory: Path | str, **options: Any) -> SqlLibrary:
        """The library of one machine: database and blobs in one directory, made when it is not there."""
        root = Path(directory)
        return cls(root / DATABASE, root / BLOBS, **options)

    def register_blueprint(
        self, name: str, ir: BlueprintIR, risk: float, approved: bool = False, parents: Iterable[str] = ()
    ) -> str:
        """See ``Library.register_blueprint``."""
        known = list(parents)
        with self._writer, self._database.writing() as session:
            return designs.register(session, name, ir, risk, approved, known, self._now())

    def approve(self, blueprint: str, approved: bool = True) -> None:
        """See ``Library.approve``."""
        with self._writer, self._database.writing() as session:
            designs.approve(session, blueprint, approved)

    def blueprint(self, blueprint: str) -> BlueprintRecord:
        """See ``Library.blueprint``."""
        with self._database.reading() as connection:
            return designs.one(connection, blueprint)

    def blueprints(self) -> list[BlueprintRecord]:
        """See ``Library.blueprints``."""
        with self._database.reading() as connection:
            return designs.every(connection)

    def lineage(self, blueprint: str) -> Lineage:
        """See ``Library.lineage``."""
        with self._database.reading() as connection:
            return designs.lineage(connection, blueprint)

    def begin(
        self,
        artifact_id: str | ArtifactId,
        blueprint: str,
        interface: Interface,
        strategy: str,
        hardware: str,
        toolchain: str,
    ) -> State:
        """See ``Library.begin``."""
        identity = checks.artifact_id(artifact_id)
        with self._writer, self._database.writing() as session:
            return states.begin(session, identity, blueprint, interface, strategy, hardware, toolchain, self._now())

    def built(self, artifact_id: str | ArtifactId, directory: Path | str) -> State:
        """See ``Library.built``."""
        identity = str(checks.artifact_id(artifact_id))
        loaded = shelf.read_directory(Path(directory), identity)
        self._put(loaded)
        with self._writer, self._database.writing() as session:
            state, changed = states.move(session, identity, State.BUILT, "built", self._now())
            if changed:
                self._put_again(loaded)
                states.store_files(session, identity, [each.file for each in loaded])
            return state

    def begin_benchmark(self, artifact_id: str | ArtifactId) -> State:
        """See ``Library.begin_benchmark``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._writer, self._database.writing() as session:
            return states.move(session, identity, State.PENDING_BENCHMARK, "queued for benchmark", self._now())[0]

    def certify(self, artifact_id: str | ArtifactId, report: Mapping[str, Any], directory: Path | str) -> State:
        """See ``Library.certify``."""
        identity = str(checks.artifact_id(artifact_id))
        checked = checks.report(report)
        loaded = shelf.read_directory(Path(directory), identity)
        shelf.check_report(loaded, checked.digest, identity)
        self._put(loaded)
        with self._writer, self._database.writing() as session:
            state, changed = states.move(session, identity, State.VALIDATED, "passed every check", self._now())
            if changed:
                files = [each.file for each in loaded]
                shelf.check_unchanged(_files(session.connection(), identity), files, identity)
                self._put_again(loaded)
                states.store_files(session, identity, files)
                states.store_report(session, identity, state, checked, self._now())
            return state

    def reject(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """See ``Library.reject``."""
        return self._verdict(artifact_id, State.REJECTED, cause, report)

    def noisy(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """See ``Library.noisy``."""
        return self._verdict(artifact_id, State.NOISY, cause, report)

    def retire(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """See ``Library.retire``."""
        return self._verdict(artifact_id, State.RETIRED, cause, None)

    def retry(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """See ``Library.retry``."""
        identity, reason = str(checks.artifact_id(artifact_id)), checks.cause(cause)
        with self._writer, self._database.writing() as session:
            return states.retry(session, identity, reason, self._now())

    def record(self, artifact_id: str | ArtifactId) -> KernelRecord:
        """See ``Library.record``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            return offers.one(connection, identity)

    def records(self, states: Iterable[State] = ()) -> list[KernelRecord]:
        """See ``Library.records``."""
        with self._database.reading() as connection:
            return offers.in_states(connection, states)

    def query(self, query: KernelQuery) -> list[KernelRecord]:
        """See ``Library.query``."""
        with self._database.reading() as connection:
            return offers.matching(connection, query)

    def files(self, artifact_id: str | ArtifactId) -> list[ArtifactFile]:
        """See ``Library.files``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return _files(connection, identity)

    def fetch(self, artifact_id: str | ArtifactId, into: Path | str) -> Path:
        """See ``Library.fetch``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            files = _files(connection, identity)
            if not files:
                state = offers.one(connection, identity).state
                raise UnknownArtifact(f"artifact {identity}: is {state.value}, there is nothing to fetch yet")
        return shelf.write_directory(files, self._blobs, Path(into), identity)

    def reports(self, artifact_id: str | ArtifactId) -> list[Report]:
        """See ``Library.reports``."""
        identity = str(checks.artifact_id(artifact_id))
        asked = select(ReportRow.__table__).where(ReportRow.artifact_id == identity).order_by(ReportRow.id)
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return [
                Report(identity, State(row.verdict), row.digest, json.loads(row.body))
                for row in connection.execute(asked)
            ]

    def history(self, artifact_id: str | ArtifactId) -> list[Change]:
        """See ``Library.history``."""
        identity = str(checks.artifact_id(artifact_id))
        asked = select(ChangeRow.__table__).where(ChangeRow.artifact_id == identity).order_by(ChangeRow.id)
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return [
                Change(identity, State(row.source) if row.source else None, State(row.target), row.cause, row.at / 1e6)
                for row in connection.execute(asked)
            ]

    def field_report(self, report: FieldReport) -> bool:
        """See ``Library.field_report``."""
        values = _field_values(report)
        with self._writer, self._database.writing() as session:
            known = select(FieldReportRow.id).where(FieldReportRow.message_id == report.message_id)
            if session.execute(known).scalar() is not None:
                return False
            session.add(FieldReportRow(**values, created_at=self._now()))
        return True

    def field_reports(self, run: str | None = None, blueprint: str | None = None) -> list[FieldReport]:
        """See ``Library.field_reports``."""
        asked = select(FieldReportRow.__table__).order_by(FieldReportRow.id)
        if run is not None:
            asked = asked.where(FieldReportRow.run == run)
        if blueprint is not None:
            asked = asked.where(FieldReportRow.blueprint == blueprint)
        with self._database.reading() as connection:
            return [
                FieldReport(
                    message_id=row.message_id,
                    run=row.run,
                    seed=row.seed,
                    blueprint=row.blueprint,
                    artifact_id=row.artifact_id,
                    outcome=row.outcome,
                    pre_metric=row.pre_metric,
                    post_metric=row.post_metric,
                    measurements=json.loads(row.measurements),
                )
                for row in connection.execute(asked)
            ]

    def sweep(self, older_than_seconds: float = 86_400.0) -> Swept:
        """See ``Library.sweep``.

        Holds the write lock: a writer that has put its blobs but not yet its row looks for them once more under the
        same lock, so nothing it needs can go missing in between.
        """
        removed, size = 0, 0
        with self._writer, self._database.writing() as session:
            named = set(session.execute(select(FileRow.digest).distinct()).scalars())
            oldest = time.time() - older_than_seconds
            for blob in self._blobs.list():
                if blob.digest not in named and blob.modified < oldest and self._blobs.delete(blob.digest):
                    removed, size = removed + 1, size + blob.size
        return Swept(removed, size)

    def close(self) -> None:
        """See ``Library.close``."""
        self._database.close()

    def _now(self) -> int:
        return round(self._clock() * 1e6)

    def _put(self, loaded: list[shelf.Loaded]) -> None:
        for each in loaded:
            self._blobs.put(each.file.digest, each.data)

    def _put_again(self, loaded: list[shelf.Loaded]) -> None:
        """Under the write lock, restore what a sweep took since ``_put``."""
        for each in loaded:
            if not self._blobs.exists(each.file.digest):
                self._blobs.put(each.file.digest, each.data)

    def _verdict(
        self, artifact_id: str | ArtifactId, target: State, cause: str, report: Mapping[str, Any] | None
    ) -> State:
        identity, reason = str(checks.artifact_id(artifact_id)), checks.cause(cause)
        checked = None if report is None else checks.report(report)
        with self._writer, self._database.writing() as session:
            state, changed = states.move(session, identity, target, reason, self._now())
            if changed and checked is not None:
                states.store_report(session, identity, state, checked, self._now())
            return state


def _files(connection: Connection, artifact_id: str) -> list[ArtifactFile]:
    asked = select(FileRow.name, FileRow.digest, FileRow.size).where(FileRow.artifact_id == artifact_id)
    return [ArtifactFile(*row) for row in connection.execute(asked.order_by(FileRow.name))]


def _field_values(report: FieldReport) -> dict[str, Any]:
    if not report.message_id or len(report.message_id) > 128 or not report.message_id.isprintable():
        raise InvalidEntry(f"field report: message id {report.message_id[:32]!r} must be 1 to 128 printable characters")
    for what, text, longest in (("run", report.run, 128), ("seed", report.seed, 256), ("outcome", report.outcome, 32)):
        if not text or len(text) > longest or not text.isprintable():
            raise InvalidEntry(f"field report {what} {text[:32]!r}: must be 1 to {longest} printable characters")
    for key, value in report.measurements.items():
        if checks.metric(value, f"field report measurement {key!r}") is None:
            raise InvalidEntry(f"field report measurement {key!r}: must be a number")
    try:
        measurements = canonical.dumps(dict(report.measurements)).decode("ascii")
    except FieldError as error:
        raise InvalidEntry(f"field report measurements: {error}") from error
    return {
        "message_id": report.message_id,
        "run": report.run,
        "seed": report.seed,
        "blueprint": checks.name(report.blueprint),
        "artifact_id": str(checks.artifact_id(report.artifact_id)),
        "outcome": report.outcome,
        "pre_metric": checks.metric(report.pre_metric, "field report pre_metric"),
        "post_metric": checks.metric(report.post_metric, "field report post_metric"),
        "measurements": measurements,
    }
