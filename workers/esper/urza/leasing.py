"""Which run uses which artifact: what is leased is not collected."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from esper.urza.database import insert_if_absent
from esper.urza.errors import UnknownArtifact
from esper.urza.library import Lease
from esper.urza.models import FileRow, LeaseRow


def take(session: Session, run: str, artifacts: Sequence[str], until: int, now: int) -> None:
    """Lease ``artifacts`` until a time; the caller keeps collectors off meanwhile. Raises ``UnknownArtifact``."""
    session.execute(delete(LeaseRow).where(LeaseRow.expires_at <= now))
    # Sorted, so that two runs that lease the same ones do not wait for each other in a circle.
    for artifact_id in sorted(set(artifacts)):
        if session.execute(select(FileRow.name).where(FileRow.artifact_id == artifact_id).limit(1)).first() is None:
            raise UnknownArtifact(f"artifact {artifact_id}: has no files that could be held; ask for it to be built")
        values = {"artifact_id": artifact_id, "run": run, "expires_at": until}
        if not insert_if_absent(session, LeaseRow, values):
            mine = (LeaseRow.artifact_id == artifact_id, LeaseRow.run == run, LeaseRow.expires_at < until)
            session.execute(update(LeaseRow).where(*mine).values(expires_at=until))


def give_up(session: Session, run: str, artifacts: Sequence[str] | None) -> int:
    """See ``Library.release``."""
    mine = [LeaseRow.run == run]
    if artifacts is not None:
        mine.append(LeaseRow.artifact_id.in_(sorted(set(artifacts))))
    done = session.execute(delete(LeaseRow).where(*mine).execution_options(synchronize_session=False))
    return int(done.rowcount)  # type: ignore[attr-defined]


def current(connection: Connection, run: str | None, now: int) -> list[Lease]:
    """See ``Library.leases``."""
    asked = select(LeaseRow.run, LeaseRow.artifact_id, LeaseRow.expires_at).where(LeaseRow.expires_at > now)
    if run is not None:
        asked = asked.where(LeaseRow.run == run)
    rows = connection.execute(asked.order_by(LeaseRow.run, LeaseRow.artifact_id))
    return [Lease(run, artifact_id, expires_at / 1e6) for run, artifact_id, expires_at in rows]


def holds(artifact_id: InstrumentedAttribute[str], now: int) -> ColumnElement[bool]:
    """Whether somebody leases an artifact, as a condition."""
    return select(LeaseRow.run).where(LeaseRow.artifact_id == artifact_id, LeaseRow.expires_at > now).exists()
