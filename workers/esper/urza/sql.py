"""The library on a SQL database and a blob store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from esper.urza import checks, collecting, designs, leasing, logbook, offers, schema, shelf, states
from esper.urza.blobs import BlobStore, DirectoryBlobs
from esper.urza.checks import CheckedReport
from esper.urza.database import BLOBS_LOCK, Database
from esper.urza.errors import BlobMissing, InvalidEntry, UnknownArtifact
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    Count,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Lease,
    Lineage,
    Report,
    State,
    Swept,
)
from leyline.blueprint import BlueprintIR
from leyline.identity import ArtifactId
from leyline.interface import Interface

DATABASE = "urza.sqlite"
BLOBS = "blobs"
_LINEAGE = "lineage"


class SqlLibrary:
    """See ``Library`` for what each method promises.

    ``url`` names a SQLite file (``sqlite:///path`` or a path) or a PostgreSQL database, ``blobs`` a directory or a
    store. Opening brings the schema up to date, or with ``migrate=False`` insists that it is. ``clock`` gives seconds
    since 1970; times are for people, for leases and for what is too young to be collected.

    Raises:
        LibraryUnavailable, LibraryFull: database or blobs can't be opened or written.
        SchemaTooNew, SchemaTooOld: another version of Esper wrote it.
        LibraryError: the URL is of no database this works with, or the database holds something else.
    """

    def __init__(
        self,
        url: str | Path,
        blobs: BlobStore | Path | str,
        *,
        busy_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
        migrate: bool = True,
    ) -> None:
        self._clock = clock
        self.blobs = DirectoryBlobs(blobs) if isinstance(blobs, Path | str) else blobs
        self._database = Database(url, busy_seconds=busy_seconds)
        # SQLite lets a waiting writer starve behind others of its own process; a lock queues them fairly.
        self._turn: AbstractContextManager[Any] = nullcontext() if self._database.shared else threading.Lock()
        try:
            if migrate:
                schema.upgrade(self._database)
            else:
                schema.require(self._database)
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
        with self._writing() as session:
            if known:
                # Two registrations at once could close a circle that neither of them sees.
                self._database.lock(session, _LINEAGE)
            return designs.register(session, name, ir, risk, approved, known, self._now())

    def approve(self, blueprint: str, approved: bool = True) -> None:
        """See ``Library.approve``."""
        with self._writing() as session:
            designs.approve(session, blueprint, approved)

    def blueprint(self, blueprint: str) -> BlueprintRecord:
        """See ``Library.blueprint``."""
        with self._database.reading() as connection:
            return designs.one(connection, blueprint)

    def blueprints(self, after: str = "", limit: int | None = None) -> list[BlueprintRecord]:
        """See ``Library.blueprints``; those whose names come after ``after``, at most ``limit``."""
        with self._database.reading() as connection:
            return designs.every(connection, after, limit)

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
        with self._writing() as session:
            return states.begin(session, identity, blueprint, interface, strategy, hardware, toolchain, self._now())

    def built(self, artifact_id: str | ArtifactId, directory: Path | str) -> State:
        """See ``Library.built``."""
        identity = str(checks.artifact_id(artifact_id))
        loaded = shelf.read_directory(Path(directory), identity)
        self._put(loaded)
        return self._built(identity, [each.file for each in loaded], lambda: self._put_again(loaded))

    def accept_build(self, artifact_id: str | ArtifactId, files: Sequence[ArtifactFile]) -> State:
        """The same for files whose blobs were stored before.

        Raises ``BlobMissing`` when one of them was not, or was collected since.
        """
        identity = str(checks.artifact_id(artifact_id))
        self._check_stored(identity, files, ("signatures/built.json",))
        return self._built(identity, files, lambda: self._check_there(identity, files))

    def begin_benchmark(self, artifact_id: str | ArtifactId) -> State:
        """See ``Library.begin_benchmark``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._writing() as session:
            return states.move(session, identity, State.PENDING_BENCHMARK, "queued for benchmark", self._now())[0]

    def certify(self, artifact_id: str | ArtifactId, report: Mapping[str, Any], directory: Path | str) -> State:
        """See ``Library.certify``."""
        identity = str(checks.artifact_id(artifact_id))
        checked = checks.report(report)
        loaded = shelf.read_directory(Path(directory), identity)
        files = [each.file for each in loaded]
        shelf.check_report(files, checked.digest, identity)
        self._put(loaded)
        return self._certified(identity, checked, files, lambda: self._put_again(loaded))

    def accept_certificate(
        self, artifact_id: str | ArtifactId, report: Mapping[str, Any], files: Sequence[ArtifactFile]
    ) -> State:
        """The same for files whose blobs were stored before; raises as ``accept_build``."""
        identity = str(checks.artifact_id(artifact_id))
        checked = checks.report(report)
        shelf.check_report(files, checked.digest, identity)
        self._check_stored(identity, files, ("signatures/built.json", "signatures/validated.json", shelf.REPORT))
        return self._certified(identity, checked, files, lambda: self._check_there(identity, files))

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
        with self._writing() as session:
            return states.retry(session, identity, reason, self._now())

    def record(self, artifact_id: str | ArtifactId) -> KernelRecord:
        """See ``Library.record``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.asking() as connection:
            return offers.one(connection, identity)

    def interface(self, artifact_id: str | ArtifactId) -> Interface:
        """See ``Library.interface``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.asking() as connection:
            return offers.interface_of(connection, identity)

    def records(self, states: Iterable[State] = (), after: str = "", limit: int | None = None) -> list[KernelRecord]:
        """See ``Library.records``; those whose ids come after ``after``, at most ``limit``."""
        with self._database.asking() as connection:
            return offers.in_states(connection, states, after, limit)

    def counts(self, states: Iterable[State] = ()) -> list[Count]:
        """See ``Library.counts``."""
        with self._database.asking() as connection:
            return offers.counts(connection, states)

    def query(self, query: KernelQuery) -> list[KernelRecord]:
        """See ``Library.query``."""
        return offers.matching(self._database, query)

    def offered(self, query: KernelQuery, reports: bool) -> list[offers.Offer]:
        """The answer to a query with the reports as they are stored, or without, for those who only pass it on."""
        return offers.offered(self._database, query, reports)

    def files(self, artifact_id: str | ArtifactId) -> list[ArtifactFile]:
        """See ``Library.files``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return logbook.files(connection, identity)

    def to_fetch(self, artifact_id: str | ArtifactId) -> list[ArtifactFile]:
        """The same, for those who want them: raises ``UnknownArtifact`` when there are none (yet, or any more)."""
        identity = str(checks.artifact_id(artifact_id))
        files = logbook.files_now(self._database, identity)
        if not files:
            state = self.record(identity).state
            raise UnknownArtifact(f"artifact {identity}: is {state.value}, there is nothing to fetch")
        return files

    def fetch(self, artifact_id: str | ArtifactId, into: Path | str) -> Path:
        """See ``Library.fetch``."""
        identity = str(checks.artifact_id(artifact_id))
        return shelf.write_directory(self.to_fetch(identity), self.blobs, Path(into), identity)

    def reports(self, artifact_id: str | ArtifactId) -> list[Report]:
        """See ``Library.reports``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return logbook.reports(connection, identity)

    def history(self, artifact_id: str | ArtifactId) -> list[Change]:
        """See ``Library.history``."""
        identity = str(checks.artifact_id(artifact_id))
        with self._database.reading() as connection:
            offers.one(connection, identity)
            return logbook.history(connection, identity)

    def field_report(self, report: FieldReport) -> bool:
        """See ``Library.field_report``."""
        with self._writing() as session:
            return logbook.add_field_report(session, report, self._now())

    def field_reports(self, run: str | None = None, blueprint: str | None = None) -> list[FieldReport]:
        """See ``Library.field_reports``."""
        return [report for _, report in self.field_report_page(run, blueprint)]

    def field_report_page(
        self, run: str | None = None, blueprint: str | None = None, after: int = 0, limit: int | None = None
    ) -> list[tuple[int, FieldReport]]:
        """Field reports after a number, at most ``limit``, each with its number."""
        with self._database.reading() as connection:
            return logbook.field_reports(connection, run, blueprint, after, limit)

    def lease(self, run: str, artifacts: Iterable[str | ArtifactId], seconds: float) -> float:
        """See ``Library.lease``."""
        checks.printable(run, "run", 128)
        wanted = [str(checks.artifact_id(artifact)) for artifact in artifacts]
        now = self._now()
        until = now + round(checks.lease_seconds(seconds) * 1e6)
        with self._writing(blobs=True) as session:
            leasing.take(session, run, wanted, until, now)
        return until / 1e6

    def release(self, run: str, artifacts: Iterable[str | ArtifactId] | None = None) -> int:
        """See ``Library.release``."""
        checks.printable(run, "run", 128)
        wanted = None if artifacts is None else [str(checks.artifact_id(artifact)) for artifact in artifacts]
        with self._writing() as session:
            return leasing.give_up(session, run, wanted)

    def leases(self, run: str | None = None) -> list[Lease]:
        """See ``Library.leases``."""
        if run is not None:
            checks.printable(run, "run", 128)
        with self._database.reading() as connection:
            return leasing.current(connection, run, self._now())

    def sweep(self, older_than_seconds: float = 86_400.0) -> Swept:
        """See ``Library.sweep``."""
        return collecting.sweep(
            lambda: self._writing(blobs=True, alone=True), self._database.reading, self.blobs,
            older_than_seconds, self._now(),
        )  # fmt: skip

    def check(self) -> None:
        """Make sure the database answers and is at this version's schema; raises as opening does."""
        schema.require(self._database)

    def close(self) -> None:
        """See ``Library.close``."""
        self._database.close()

    @contextmanager
    def _writing(self, *, blobs: bool = False, alone: bool = False) -> Iterator[Session]:
        """A transaction; with ``blobs`` no collector takes any before it ends, with ``alone`` nobody else names any."""
        with self._turn, self._database.writing() as session:
            if blobs:
                self._database.lock(session, BLOBS_LOCK, shared=not alone)
            yield session

    def _now(self) -> int:
        return round(self._clock() * 1e6)

    def _put(self, loaded: list[shelf.Loaded]) -> None:
        for each in loaded:
            self.blobs.put(each.file.digest, each.data)

    def _put_again(self, loaded: list[shelf.Loaded]) -> None:
        """While no collector is at work, restore what one took since ``_put``."""
        for each in loaded:
            if self.blobs.info(each.file.digest) is None:
                self.blobs.put(each.file.digest, each.data)

    def _check_stored(self, artifact_id: str, files: Sequence[ArtifactFile], needed: Sequence[str]) -> None:
        shelf.check_names(files, artifact_id)
        by_name = {file.name: file for file in files}
        lacking = [name for name in needed if name not in by_name]
        if lacking:
            raise InvalidEntry(f"{artifact_id}: has no {lacking[0]}; hand in what is signed and complete")
        self._check_there(artifact_id, files)
        manifest = by_name[shelf.MANIFEST]
        if manifest.size > shelf.MAX_IN_MEMORY:
            raise InvalidEntry(f"{artifact_id}: its {shelf.MANIFEST} has {manifest.size} bytes, which is too many")
        shelf.check_manifest(self.blobs.get(manifest.digest), artifact_id, artifact_id)

    def _check_there(self, artifact_id: str, files: Sequence[ArtifactFile]) -> None:
        for file in files:
            known = self.blobs.info(file.digest)
            if known is None:
                raise BlobMissing(
                    f"artifact {artifact_id}: {file.name} ({file.digest}) is not stored; upload it (again)"
                )
            if known.size != file.size:
                raise InvalidEntry(f"artifact {artifact_id}: {file.name} has {known.size} bytes, not {file.size}")

    def _built(self, artifact_id: str, files: Sequence[ArtifactFile], make_sure: Callable[[], None]) -> State:
        with self._writing(blobs=True) as session:
            state, changed = states.move(session, artifact_id, State.BUILT, "built", self._now())
            if changed:
                make_sure()
                states.store_files(session, artifact_id, files)
            else:
                states.check_same(artifact_id, state, logbook.files(session.connection(), artifact_id), files)
            return state

    def _certified(
        self, artifact_id: str, report: CheckedReport, files: Sequence[ArtifactFile], make_sure: Callable[[], None]
    ) -> State:
        with self._writing(blobs=True) as session:
            state, changed = states.move(session, artifact_id, State.VALIDATED, "passed every check", self._now())
            if changed:
                shelf.check_unchanged(logbook.files(session.connection(), artifact_id), files, artifact_id)
                make_sure()
                states.store_files(session, artifact_id, files)
                states.store_report(session, artifact_id, state, report, self._now())
            else:
                states.check_same(artifact_id, state, logbook.files(session.connection(), artifact_id), files)
            return state

    def _verdict(
        self, artifact_id: str | ArtifactId, target: State, cause: str, report: Mapping[str, Any] | None
    ) -> State:
        identity, reason = str(checks.artifact_id(artifact_id)), checks.cause(cause)
        checked = None if report is None else checks.report(report)
        with self._writing() as session:
            state, changed = states.move(session, identity, target, reason, self._now())
            if changed and checked is not None:
                states.store_report(session, identity, state, checked, self._now())
            return state
