"""An artifact's steps from wanted to usable, each a compare-and-set with its entry in the history."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from esper.urza import checks, designs, shelf
from esper.urza.checks import CheckedReport
from esper.urza.database import insert_if_absent
from esper.urza.errors import ContentConflict, InvalidEntry, StateConflict, UnknownArtifact
from esper.urza.library import SOURCES, ArtifactFile, State
from esper.urza.models import ArtifactRow, BlueprintRow, ChangeRow, FileRow, ReportRow, TagRow
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError
from leyline.identity import ArtifactId, kernel_number
from leyline.interface import Interface

#: How far a state is along the way; a step to one that is not further has nothing left to do.
_RANK = {
    State.PENDING_BUILD: 0,
    State.BUILT: 1,
    State.PENDING_BENCHMARK: 2,
    State.NOISY: 3,
    State.VALIDATED: 3,
    State.REJECTED: 3,
    State.RETIRED: 4,
}


def begin(
    session: Session,
    artifact_id: ArtifactId,
    blueprint: str,
    interface: Interface,
    strategy: str,
    hardware: str,
    toolchain: str,
    now: int,
) -> State:
    """See ``Library.begin``."""
    text = str(artifact_id)
    digest = designs.find(session, blueprint)
    try:
        expected = ArtifactId.make(digest, interface, hardware, strategy, toolchain)
    except LeylineError as error:
        raise InvalidEntry(f"artifact {text}: {error}") from error
    if artifact_id != expected:
        raise InvalidEntry(
            f"artifact {text}: blueprint {blueprint!r}, interface, strategy and hardware give {expected}; "
            "take the id from leyline.identity.ArtifactId.make"
        )
    known = session.execute(select(ArtifactRow.state).where(ArtifactRow.artifact_id == text)).scalar()
    if known is not None:
        return State(known)
    row = session.get(BlueprintRow, digest)
    assert row is not None, "find() returns digests that exist"
    ir = BlueprintIR.from_json(row.ir)
    try:
        ir.check(interface)
        flops, parameters = ir.flops(interface), ir.parameter_count(interface)
    except LeylineError as error:
        raise InvalidEntry(f"artifact {text}: blueprint {blueprint!r} does not fit the interface: {error}") from error
    values = {
        "artifact_id": text,
        "number": f"{kernel_number(artifact_id):016x}",
        "blueprint": digest,
        "interface_digest": interface.digest(),
        "interface": canonical.dumps(interface.to_dict()).decode("ascii"),
        "strategy": strategy,
        "hardware": hardware,
        "toolchain": artifact_id.toolchain,
        "state": State.PENDING_BUILD.value,
        "cause": "",
        "flops": flops,
        "parameters": parameters,
        "risk": row.risk,
        "created_at": now,
        "changed_at": now,
    }
    if not insert_if_absent(session, ArtifactRow, values):
        return current(session, text)  # another writer was a moment faster
    _remember(session, text, None, State.PENDING_BUILD, "wanted", now)
    return State.PENDING_BUILD


def current(session: Session, artifact_id: str) -> State:
    """The state now, which no other writer changes until the transaction ends; raises ``UnknownArtifact``."""
    asked = select(ArtifactRow.state).where(ArtifactRow.artifact_id == artifact_id).with_for_update()
    state = session.execute(asked).scalar()
    if state is None:
        raise UnknownArtifact(f"artifact {artifact_id}: not in the library; begin it first")
    return State(state)


def move(session: Session, artifact_id: str, target: State, cause: str, now: int) -> tuple[State, bool]:
    """Go to ``target`` if the state allows it; returns the state afterwards and whether this call changed it.

    Raises ``StateConflict`` when ``target`` is further along but can't be reached from here, ``UnknownArtifact``.
    """
    source = current(session, artifact_id)
    if source not in SOURCES[target]:
        if _RANK[source] >= _RANK[target]:
            return source, False
        allowed = ", ".join(sorted(state.value for state in SOURCES[target]))
        raise StateConflict(f"artifact {artifact_id}: is {source.value}; only {allowed} can become {target.value}")
    changed = session.execute(
        update(ArtifactRow)
        .where(ArtifactRow.artifact_id == artifact_id, ArtifactRow.state == source.value)
        .values(state=target.value, cause=cause, changed_at=now)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise StateConflict(f"artifact {artifact_id}: changed by another process at the same moment; look again")
    _remember(session, artifact_id, source, target, cause, now)
    return target, True


def retry(session: Session, artifact_id: str, cause: str, now: int) -> State:
    """See ``Library.retry``."""
    source = current(session, artifact_id)
    if source is State.PENDING_BUILD:
        return source
    if source is not State.REJECTED:
        raise StateConflict(f"artifact {artifact_id}: is {source.value}; only Rejected ones can be tried again")
    move(session, artifact_id, State.PENDING_BUILD, cause, now)
    session.execute(delete(FileRow).where(FileRow.artifact_id == artifact_id))
    session.execute(
        update(ArtifactRow)
        .where(ArtifactRow.artifact_id == artifact_id)
        .values(report=None, ratio=None, latency_ms=None, memory_mb=None)
    )
    return State.PENDING_BUILD


def check_same(artifact_id: str, state: State, before: Sequence[ArtifactFile], after: Sequence[ArtifactFile]) -> None:
    """Raise ``ContentConflict`` when an artifact that has files is handed in with other ones."""
    changed = [] if state is State.REJECTED or not before else shelf.differing(before, after)
    if changed:
        raise ContentConflict(
            f"artifact {artifact_id}: is {state.value} with other bytes in {', '.join(changed[:3])}; "
            "what an id names never changes, retire it and build under another toolchain"
        )


def store_files(session: Session, artifact_id: str, files: Sequence[ArtifactFile]) -> None:
    """Say what an artifact consists of, in place of what was said before."""
    session.execute(delete(FileRow).where(FileRow.artifact_id == artifact_id))
    session.execute(
        insert(FileRow),
        [{"artifact_id": artifact_id, "name": file.name, "digest": file.digest, "size": file.size} for file in files],
    )


def store_report(session: Session, artifact_id: str, verdict: State, report: CheckedReport, now: int) -> None:
    """Append a report and let queries see its numbers and tags."""
    row = ReportRow(
        artifact_id=artifact_id, verdict=verdict.value, digest=report.digest, body=report.body, created_at=now
    )
    session.add(row)
    session.flush()
    session.execute(
        update(ArtifactRow)
        .where(ArtifactRow.artifact_id == artifact_id)
        .values(
            report=row.id,
            ratio=report.ratio,
            latency_ms=report.latency_ms,
            memory_mb=report.memory_mb,
            tags=" ".join(sorted(report.tags)),
            **({} if report.risk is None else {"risk": report.risk}),
        )
    )
    session.execute(delete(TagRow).where(TagRow.artifact_id == artifact_id))
    if report.tags:
        session.execute(insert(TagRow), [{"artifact_id": artifact_id, "tag": tag} for tag in report.tags])


def _remember(session: Session, artifact_id: str, source: State | None, target: State, cause: str, now: int) -> None:
    session.add(
        ChangeRow(
            artifact_id=artifact_id,
            source=source.value if source is not None else None,
            target=target.value,
            cause=checks.cause(cause),
            at=now,
        )
    )
    session.flush()
