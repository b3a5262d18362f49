"""Field reports in the database, and an artifact's own records: reports and changes."""

from __future__ import annotations

import json
from functools import lru_cache

from sqlalchemy import Connection, Dialect, Text, bindparam, select
from sqlalchemy.orm import Session

from esper.urza import checks
from esper.urza.database import Database, Prepared, insert_if_absent
from esper.urza.library import ArtifactFile, Change, FieldReport, Report, State
from esper.urza.models import ChangeRow, FieldReportRow, FileRow, ReportRow

_FILES = (
    select(FileRow.name, FileRow.digest, FileRow.size)
    .where(FileRow.artifact_id == bindparam("artifact_id", type_=Text))
    .order_by(FileRow.name)
)


def files(connection: Connection, artifact_id: str) -> list[ArtifactFile]:
    """See ``Library.files``."""
    return [ArtifactFile(*row) for row in connection.execute(_FILES, {"artifact_id": artifact_id})]


def files_now(database: Database, artifact_id: str) -> list[ArtifactFile]:
    """The same as a question of its own."""
    rows = database.rows(_prepared_files(database.engine.dialect), {"artifact_id": artifact_id})
    return [ArtifactFile(*row) for row in rows]


@lru_cache(maxsize=8)
def _prepared_files(dialect: Dialect) -> Prepared:
    return Prepared(dialect, _FILES)


def reports(connection: Connection, artifact_id: str) -> list[Report]:
    """See ``Library.reports``."""
    asked = select(ReportRow.__table__).where(ReportRow.artifact_id == artifact_id).order_by(ReportRow.id)
    return [
        Report(artifact_id, State(row.verdict), row.digest, json.loads(row.body)) for row in connection.execute(asked)
    ]


def history(connection: Connection, artifact_id: str) -> list[Change]:
    """See ``Library.history``."""
    asked = select(ChangeRow.__table__).where(ChangeRow.artifact_id == artifact_id).order_by(ChangeRow.id)
    return [
        Change(artifact_id, State(row.source) if row.source else None, State(row.target), row.cause, row.at / 1e6)
        for row in connection.execute(asked)
    ]


def add_field_report(session: Session, report: FieldReport, now: int) -> bool:
    """See ``Library.field_report``."""
    values = checks.field_report(report)
    known = select(FieldReportRow.id).where(FieldReportRow.message_id == report.message_id)
    # Asked first: an insert that conflicts would still be refused by the trigger that keeps the table append-only.
    if session.execute(known).scalar() is not None:
        return False
    return insert_if_absent(session, FieldReportRow, {**values, "created_at": now})


def field_reports(
    connection: Connection, run: str | None, blueprint: str | None, after: int = 0, limit: int | None = None
) -> list[tuple[int, FieldReport]]:
    """See ``Library.field_reports``; those after a row number, at most ``limit``, each with its number."""
    asked = select(FieldReportRow.__table__).where(FieldReportRow.id > after).order_by(FieldReportRow.id).limit(limit)
    if run is not None:
        asked = asked.where(FieldReportRow.run == checks.printable(run, "field report run", 128))
    if blueprint is not None:
        asked = asked.where(FieldReportRow.blueprint == checks.name(blueprint))
    return [
        (
            row.id,
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
            ),
        )
        for row in connection.execute(asked)
    ]
