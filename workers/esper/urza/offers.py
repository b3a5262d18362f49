"""Reading artifacts out of the database: one record, lists, and the controller's query."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Float,
    Select,
    Text,
    bindparam,
    false,
    func,
    or_,
    select,
)
from sqlalchemy.orm import InstrumentedAttribute, aliased

from esper.urza import checks
from esper.urza.database import Database, Prepared
from esper.urza.errors import InvalidEntry, UnknownArtifact
from esper.urza.library import Count, KernelQuery, KernelRecord, State
from esper.urza.models import ArtifactRow, BlueprintNameRow, BlueprintRow, ReportRow, TagRow
from leyline.errors import describe
from leyline.identity import MAX_HARDWARE, STRATEGIES
from leyline.interface import Interface

_ORDER = {strategy: number for number, strategy in enumerate(STRATEGIES)}
_STATES = {state.value: state for state in State}


class Offer(msgspec.Struct, frozen=True):
    """An artifact's record with its report as the JSON text that was stored, if there is one; ready to be written."""

    artifact_id: str
    blueprint: str
    strategy: str
    state: str
    ratio: float | None
    latency_ms: float | None
    memory_mb: float | None
    tags: Sequence[str]
    risk: float
    flops: int
    parameters: int
    hardware: str
    toolchain: str
    cause: str
    approved: bool
    blueprint_digest: str
    report: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def one(connection: Connection, artifact_id: str) -> KernelRecord:
    """See ``Library.record``."""
    found = _records(_rows(connection.execute(statement([ArtifactRow.artifact_id == artifact_id]))))
    if not found:
        raise UnknownArtifact(_unknown(artifact_id))
    return found[0]


def interface_of(connection: Connection, artifact_id: str) -> Interface:
    """See ``Library.interface``."""
    asked = select(ArtifactRow.interface).where(ArtifactRow.artifact_id == artifact_id)
    text = connection.execute(asked).scalar()
    if text is None:
        raise UnknownArtifact(_unknown(artifact_id))
    return Interface.from_dict(json.loads(text))


def _unknown(artifact_id: str) -> str:
    return f"artifact {artifact_id}: not in the library; ask for it to be built first"


def in_states(
    connection: Connection, states: Iterable[State], after: str = "", limit: int | None = None
) -> list[KernelRecord]:
    """See ``Library.records``; those whose ids come after ``after``, at most ``limit``."""
    wanted = [State(state).value for state in states]
    conditions: list[ColumnElement[bool]] = [ArtifactRow.state.in_(wanted)] if wanted else []
    if after:
        conditions.append(ArtifactRow.artifact_id > after)
    asked = statement(conditions, limit=limit)
    return _records(sorted(_rows(connection.execute(asked)), key=lambda row: row.artifact_id))


def counts(connection: Connection, states: Iterable[State]) -> list[Count]:
    """See ``Library.counts``."""
    kind = (ArtifactRow.state, ArtifactRow.strategy, ArtifactRow.hardware)
    asked = select(*kind, func.count()).group_by(*kind).order_by(*kind)
    wanted = [State(state).value for state in states]
    if wanted:
        asked = asked.where(ArtifactRow.state.in_(wanted))
    return [Count(_STATES[row[0]], row[1], row[2], row[3]) for row in connection.execute(asked)]


def matching(database: Database, query: KernelQuery) -> list[KernelRecord]:
    """See ``Library.query``."""
    return _records(_matching(database, query))


def offered(database: Database, query: KernelQuery, reports: bool) -> list[Offer]:
    """The same with the reports as they are stored, or without, for those who only pass them on."""
    return [_offer(row, reports) for row in _matching(database, query)]


def _offer(row: _Row, reports: bool) -> Offer:
    (
        artifact_id, strategy, state, ratio, latency_ms, memory_mb, risk, flops, parameters, hardware, toolchain, cause,
        tags, digest, approved, blueprint, report,
    ) = row  # fmt: skip
    return Offer(
        artifact_id, blueprint, strategy, state, ratio, latency_ms, memory_mb, tags.split(), risk, flops, parameters,
        hardware, toolchain, cause, bool(approved), digest,
        msgspec.Raw(report) if reports and report is not None else msgspec.UNSET,
    )  # fmt: skip


def _matching(database: Database, query: KernelQuery) -> list[_Row]:
    values = _values(query)
    names = values["names"]
    shape = Shape(
        values["toolchain"] is not None, len(values["strategies"]), len(values["tags"]),
        None if names is None else len(names),
    )  # fmt: skip
    prepared = _prepared(database.engine.dialect, shape)
    found = _rows(database.rows(prepared, _flat(values)), frozenset(names or ()))
    found.sort(key=lambda row: (row.blueprint, _ORDER[row.strategy], row.artifact_id))
    return found[: query.limit]


def _values(query: KernelQuery) -> dict[str, Any]:
    """What a query asks for, checked."""
    if not isinstance(query.hardware, str) or not 0 < len(query.hardware) <= MAX_HARDWARE:
        raise InvalidEntry(f"query hardware {describe(query.hardware)}: must name a target")
    if query.limit is not None and query.limit < 0:
        raise InvalidEntry(f"query limit {query.limit}: must be at least 0")
    unknown = [strategy for strategy in query.strategies if strategy not in STRATEGIES]
    if unknown:
        raise InvalidEntry(f"query strategy {describe(unknown[0])}: must be one of {', '.join(STRATEGIES)}")
    toolchain, names = query.toolchain, query.blueprints
    return {
        "interface": query.interface.digest(),
        "hardware": checks.printable(query.hardware, "query hardware", MAX_HARDWARE),
        "state": State.VALIDATED.value,
        "risk": checks.risk(query.max_risk, "query max_risk"),
        "toolchain": None if toolchain is None else checks.printable(toolchain, "query toolchain", 128)[:8],
        "strategies": sorted(set(query.strategies)),
        "tags": checks.tags(query.tags),
        "names": None if names is None else sorted({checks.printable(name, "query blueprint", 128) for name in names}),
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a name for each value, as ``question`` calls them."""
    flat = {name: values[name] for name in ("interface", "hardware", "state", "risk", "toolchain")}
    for kind in ("strategies", "tags", "names"):
        flat |= {f"{kind}_{number}": value for number, value in enumerate(values[kind] or ())}
    return flat


class Shape(NamedTuple):
    """What a query's SQL depends on: which conditions it has, and with how many values."""

    toolchain: bool = False
    strategies: int = 0
    tags: int = 0
    names: int | None = None


def question(shape: Shape) -> Select[Any]:
    """The query of a shape, its values as parameters."""
    conditions: list[ColumnElement[bool]] = [
        ArtifactRow.interface_digest == bindparam("interface", type_=Text),
        ArtifactRow.hardware == bindparam("hardware", type_=Text),
        ArtifactRow.state == bindparam("state", type_=Text),
        ArtifactRow.risk <= bindparam("risk", type_=Float),
    ]
    if shape.toolchain:
        conditions.append(ArtifactRow.toolchain == bindparam("toolchain", type_=Text))
    if shape.strategies:
        conditions.append(_one_of(ArtifactRow.strategy, "strategies", shape.strategies))
    for number in range(shape.tags):
        # Asked row by row: few artifacts fit the interface, many of all may have the tag.
        carried = aliased(TagRow)
        wanted = carried.tag == bindparam(f"tags_{number}", type_=Text)
        conditions.append(select(carried.tag).where(carried.artifact_id == ArtifactRow.artifact_id, wanted).exists())
    called = None
    if shape.names is not None:
        called = _one_of(BlueprintNameRow.name, "names", shape.names)
        designs = select(BlueprintNameRow.blueprint).where(called)
        conditions.append(ArtifactRow.blueprint.in_(designs) | _one_of(ArtifactRow.blueprint, "names", shape.names))
    return statement(conditions, called)


def _one_of(column: InstrumentedAttribute[str], kind: str, count: int) -> ColumnElement[bool]:
    return or_(false(), *(column == bindparam(f"{kind}_{number}", type_=Text) for number in range(count)))


@lru_cache(maxsize=256)
def _prepared(dialect: Dialect, shape: Shape) -> Prepared:
    return Prepared(dialect, question(shape))


def statement(
    conditions: Sequence[ColumnElement[bool]], called: ColumnElement[bool] | None = None, limit: int | None = None
) -> Select[Any]:
    """Artifacts with name and the report that decided, in one question and no order; the first by id up to a limit.

    Asked for an order, a database would rather walk an index that has it than use the one that finds few rows. The
    smallest name stands for a design that has several, of those ``called`` so if it has one of them.
    """
    found = (
        select(
            ArtifactRow.artifact_id, ArtifactRow.strategy, ArtifactRow.state, ArtifactRow.ratio, ArtifactRow.latency_ms,
            ArtifactRow.memory_mb, ArtifactRow.risk, ArtifactRow.flops, ArtifactRow.parameters, ArtifactRow.hardware,
            ArtifactRow.toolchain, ArtifactRow.cause, ArtifactRow.tags, ArtifactRow.blueprint, ArtifactRow.report,
        )
        .where(*conditions)
    )  # fmt: skip
    if limit is not None:
        found = found.order_by(ArtifactRow.artifact_id).limit(limit)
    hits = found.cte("hits")
    name = select(func.min(BlueprintNameRow.name)).where(BlueprintNameRow.blueprint == BlueprintRow.digest)
    if called is not None:
        name = name.where(called)
    designs = (
        select(BlueprintRow.digest, BlueprintRow.approved, name.correlate(BlueprintRow).scalar_subquery().label("name"))
        .where(BlueprintRow.digest.in_(select(hits.c.blueprint)))
        .cte("designs")
        # There, each design is looked up once, however many of its artifacts were found; SQLite has a fast way to each.
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    columns = [column for column in hits.c if column is not hits.c.report]
    return (
        select(*columns, designs.c.approved, designs.c.name, ReportRow.body)
        .select_from(hits)
        .join(designs, designs.c.digest == hits.c.blueprint)
        .outerjoin(ReportRow, ReportRow.id == hits.c.report)
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
    tags: str
    digest: str
    approved: bool
    blueprint: str
    report: str | None


def _rows(read: Iterable[Sequence[Any]], digests: frozenset[str] = frozenset()) -> list[_Row]:
    found = []
    for row in map(_Row._make, read):
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
        tags, digest, approved, blueprint, _,
    ) = row  # fmt: skip
    return KernelRecord(
        artifact_id, blueprint, strategy, _STATES[state], ratio, latency_ms, memory_mb,
        tuple(tags.split()), risk, flops, parameters, report, hardware, toolchain, cause,
        bool(approved), digest,
    )  # fmt: skip
