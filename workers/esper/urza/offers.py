"""Reading artifacts out of the database: one record, lists, and the controller's query."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, select
from sqlalchemy.orm import aliased

from esper.urza import checks, designs
from esper.urza.errors import InvalidEntry, UnknownArtifact
from esper.urza.library import KernelQuery, KernelRecord, State
from esper.urza.models import ArtifactRow, ReportRow, TagRow
from leyline.errors import describe
from leyline.identity import MAX_HARDWARE, STRATEGIES


def one(connection: Connection, artifact_id: str) -> KernelRecord:
    """See ``Library.record``."""
    found = _records(connection, [ArtifactRow.artifact_id == artifact_id])
    if not found:
        raise UnknownArtifact(f"artifact {artifact_id}: not in the library; ask for it to be built first")
    return found[0]


def in_states(connection: Connection, states: Iterable[State]) -> list[KernelRecord]:
    """See ``Library.records``."""
    wanted = [State(state).value for state in states]
    return _records(connection, [ArtifactRow.state.in_(wanted)] if wanted else [])


def matching(connection: Connection, query: KernelQuery) -> list[KernelRecord]:
    """See ``Library.query``."""
    conditions = _conditions(query)
    wanted: dict[str, str] = {}
    if query.blueprints is not None:
        names = designs.names(connection)
        for name in sorted(query.blueprints, reverse=True):
            wanted[names.get(name, name)] = name  # the first in order wins where two names mean one design
        conditions.append(ArtifactRow.blueprint.in_(sorted(wanted)))
    found = _records(connection, conditions, wanted)
    found.sort(key=lambda record: (record.blueprint, STRATEGIES.index(record.strategy), record.artifact_id))
    return found[: query.limit]


def _conditions(query: KernelQuery) -> list[ColumnElement[bool]]:
    if not isinstance(query.hardware, str) or not 0 < len(query.hardware) <= MAX_HARDWARE:
        raise InvalidEntry(f"query hardware {describe(query.hardware)}: must name a target")
    if query.limit is not None and query.limit < 0:
        raise InvalidEntry(f"query limit {query.limit}: must be at least 0")
    conditions = [
        ArtifactRow.interface_digest == query.interface.digest(),
        ArtifactRow.hardware == query.hardware,
        ArtifactRow.state == State.VALIDATED.value,
        ArtifactRow.risk <= checks.risk(query.max_risk, "query max_risk"),
    ]
    if query.toolchain is not None:
        conditions.append(ArtifactRow.toolchain == query.toolchain[:8])
    if query.strategies:
        unknown = [strategy for strategy in query.strategies if strategy not in STRATEGIES]
        if unknown:
            raise InvalidEntry(f"query strategy {describe(unknown[0])}: must be one of {', '.join(STRATEGIES)}")
        conditions.append(ArtifactRow.strategy.in_(sorted(query.strategies)))
    for tag in checks.tags(query.tags):
        # Asked row by row: few artifacts fit the interface, many of all may have the tag.
        carried = aliased(TagRow)
        conditions.append(
            select(carried.tag).where(carried.artifact_id == ArtifactRow.artifact_id, carried.tag == tag).exists()
        )
    return conditions


def statement(conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """Artifacts with the report that decided, in no order: asked for one, the database would rather walk an index that
    has it than use the one that finds few rows.
    """
    return (
        select(ArtifactRow.__table__, ReportRow.body)
        .outerjoin(ReportRow, ReportRow.id == ArtifactRow.report)
        .where(*conditions)
    )


def _records(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], wanted: dict[str, str] | None = None
) -> list[KernelRecord]:
    rows = sorted(connection.execute(statement(conditions)), key=lambda row: row.artifact_id)
    if not rows:
        return []
    tags: dict[str, list[str]] = defaultdict(list)
    tagged = select(TagRow.artifact_id, TagRow.tag).join(ArtifactRow, ArtifactRow.artifact_id == TagRow.artifact_id)
    for artifact_id, tag in connection.execute(tagged.where(*conditions).order_by(TagRow.tag)):
        tags[artifact_id].append(tag)
    known = dict(wanted or {})
    if not known:
        # The smallest name stands for a design that has several.
        known = {digest: name for name, digest in sorted(designs.names(connection).items(), reverse=True)}
    approved = designs.approved(connection)
    return [_record(row, known, tags[row.artifact_id], approved) for row in rows]


def _record(row: Row[Any], names: dict[str, str], tags: list[str], approved: set[str]) -> KernelRecord:
    return KernelRecord(
        artifact_id=row.artifact_id,
        blueprint=names.get(row.blueprint, row.blueprint),
        strategy=row.strategy,
        state=State(row.state),
        ratio=row.ratio,
        latency_ms=row.latency_ms,
        memory_mb=row.memory_mb,
        tags=tuple(tags),
        risk=row.risk,
        flops=row.flops,
        parameters=row.parameters,
        report=json.loads(row.body) if row.body is not None else {},
        hardware=row.hardware,
        toolchain=row.toolchain,
        cause=row.cause,
        approved=row.blueprint in approved,
        blueprint_digest=row.blueprint,
    )
