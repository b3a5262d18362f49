"""Reading artifacts out of the database: one record, lists, and the controller's query."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, func, select
from sqlalchemy.orm import aliased

from esper.urza import checks
from esper.urza.errors import InvalidEntry, UnknownArtifact
from esper.urza.library import KernelQuery, KernelRecord, State
from esper.urza.models import ArtifactRow, BlueprintNameRow, BlueprintRow, ReportRow, TagRow
from leyline.errors import describe
from leyline.identity import MAX_HARDWARE, STRATEGIES

_ORDER = {strategy: number for number, strategy in enumerate(STRATEGIES)}
_STATES = {state.value: state for state in State}


@dataclass(frozen=True, slots=True)
class Offer:
    """An artifact's record but for its report, which is the JSON text that was stored (``None``: there is none)."""

    record: KernelRecord
    report: str | None


def one(connection: Connection, artifact_id: str) -> KernelRecord:
    """See ``Library.record``."""
    found = _records(_read(connection, [ArtifactRow.artifact_id == artifact_id]))
    if not found:
        raise UnknownArtifact(f"artifact {artifact_id}: not in the library; ask for it to be built first")
    return found[0]


def in_states(
    connection: Connection, states: Iterable[State], after: str = "", limit: int | None = None
) -> list[KernelRecord]:
    """See ``Library.records``; those whose ids come after ``after``, at most ``limit``."""
    wanted = [State(state).value for state in states]
    conditions: list[ColumnElement[bool]] = [ArtifactRow.state.in_(wanted)] if wanted else []
    if after:
        conditions.append(ArtifactRow.artifact_id > after)
    asked = statement(conditions)
    if limit is not None:
        asked = asked.order_by(ArtifactRow.artifact_id).limit(limit)
    return _records(sorted(_rows(connection, asked), key=lambda row: row.artifact_id))


def matching(connection: Connection, query: KernelQuery) -> list[KernelRecord]:
    """See ``Library.query``."""
    return _records(_matching(connection, query))


def offered(connection: Connection, query: KernelQuery) -> list[Offer]:
    """The same with the reports as they are stored, for those who only pass them on."""
    return [Offer(_record(row, {}), row.report) for row in _matching(connection, query)]


def _matching(connection: Connection, query: KernelQuery) -> list[_Row]:
    found = _read(connection, _conditions(query), query.blueprints)
    found.sort(key=lambda row: (row.blueprint, _ORDER[row.strategy], row.artifact_id))
    return found[: query.limit]


def _conditions(query: KernelQuery) -> list[ColumnElement[bool]]:
    if not isinstance(query.hardware, str) or not 0 < len(query.hardware) <= MAX_HARDWARE:
        raise InvalidEntry(f"query hardware {describe(query.hardware)}: must name a target")
    if not query.hardware.isprintable():
        raise InvalidEntry(f"query hardware {describe(query.hardware)}: must be printable")
    if query.limit is not None and query.limit < 0:
        raise InvalidEntry(f"query limit {query.limit}: must be at least 0")
    conditions = [
        ArtifactRow.interface_digest == query.interface.digest(),
        ArtifactRow.hardware == query.hardware,
        ArtifactRow.state == State.VALIDATED.value,
        ArtifactRow.risk <= checks.risk(query.max_risk, "query max_risk"),
    ]
    if query.toolchain is not None:
        checks.printable(query.toolchain, "query toolchain", 128)
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
    if query.blueprints is not None:
        names = sorted({checks.printable(name, "query blueprint", 128) for name in query.blueprints})
        called = select(BlueprintNameRow.blueprint).where(BlueprintNameRow.name.in_(names))
        conditions.append(ArtifactRow.blueprint.in_(called) | ArtifactRow.blueprint.in_(names))
    return conditions


def statement(conditions: Sequence[ColumnElement[bool]], names: Iterable[str] | None = None) -> Select[Any]:
    """Artifacts with tags, name and the report that decided, in one question and no order.

    Asked for an order, a database would rather walk an index that has it than use the one that finds few rows. The
    smallest name stands for a design that has several, of ``names`` if it has one of them.
    """
    tags = (
        select(func.aggregate_strings(TagRow.tag, " "))
        .where(TagRow.artifact_id == ArtifactRow.artifact_id)
        .correlate(ArtifactRow)
        .scalar_subquery()
    )
    name = select(func.min(BlueprintNameRow.name)).where(BlueprintNameRow.blueprint == ArtifactRow.blueprint)
    if names is not None:
        name = name.where(BlueprintNameRow.name.in_(sorted(set(names))))
    columns = (
        ArtifactRow.artifact_id, ArtifactRow.strategy, ArtifactRow.state, ArtifactRow.ratio, ArtifactRow.latency_ms,
        ArtifactRow.memory_mb, ArtifactRow.risk, ArtifactRow.flops, ArtifactRow.parameters, ArtifactRow.hardware,
        ArtifactRow.toolchain, ArtifactRow.cause, ArtifactRow.blueprint, BlueprintRow.approved,
        name.correlate(ArtifactRow).scalar_subquery(), tags, ReportRow.body,
    )  # fmt: skip
    return (
        select(*columns)
        .join(BlueprintRow, BlueprintRow.digest == ArtifactRow.blueprint)
        .outerjoin(ReportRow, ReportRow.id == ArtifactRow.report)
        .where(*conditions)
    )


class _Row(NamedTuple):
    """An artifact as it is read, in the order of ``statement``'s columns."""

    artifact_id: str
    strategy: str
    state: str
    ratio: float | None
    latency_ms: float | None
    memory_mb: float | None
    risk: float
    flops: int
    parameters: int
    hardware: str
    toolchain: str
    cause: str
    digest: str
    approved: bool
    blueprint: str
    tags: str | None
    report: str | None


def _read(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], names: Sequence[str] | None = None
) -> list[_Row]:
    return _rows(connection, statement(conditions, names), frozenset(names or ()))


def _rows(connection: Connection, asked: Select[Any], digests: frozenset[str] = frozenset()) -> list[_Row]:
    found = []
    for row in map(_Row._make, connection.execute(asked).all()):
        # A design asked for by its digest is called by it, unless a name it was asked for by comes before.
        nameless = row.blueprint is None or (row.digest in digests and row.digest < row.blueprint)
        found.append(row._replace(blueprint=row.digest) if nameless else row)
    return found


def _records(rows: Sequence[_Row]) -> list[KernelRecord]:
    # In one text: that takes half the time of reading them one by one.
    reports = json.loads(f"[{','.join(row.report or '{}' for row in rows)}]")
    return list(map(_record, rows, reports))


def _record(row: _Row, report: Mapping[str, Any]) -> KernelRecord:
    (
        artifact_id, strategy, state, ratio, latency_ms, memory_mb, risk, flops, parameters, hardware, toolchain, cause,
        digest, approved, blueprint, tags, _,
    ) = row  # fmt: skip
    return KernelRecord(
        artifact_id, blueprint, strategy, _STATES[state], ratio, latency_ms, memory_mb,
        tuple(sorted(tags.split(" "))) if tags else (), risk, flops, parameters, report, hardware, toolchain, cause,
        bool(approved), digest,
    )  # fmt: skip
