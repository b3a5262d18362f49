"""Blueprints in the database: designs, their names, and who they come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy import Connection, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from esper.urza import checks
from esper.urza.blobs import check_digest
from esper.urza.database import insert_if_absent
from esper.urza.errors import InvalidEntry, LibraryError, UnknownBlueprint
from esper.urza.library import BlueprintRecord, Lineage
from esper.urza.models import BlueprintNameRow, BlueprintRow, ParentRow
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError

_AT_ONCE = 500
"""Digests in one question: databases bound the number of values in one."""


def register(
    session: Session, name: str, ir: BlueprintIR, risk: float, approved: bool, parents: Iterable[str], now: int
) -> str:
    """See ``Library.register_blueprint``."""
    checks.name(name)
    risk = checks.risk(risk)
    try:
        ir.check()
        digest, encoded = ir.digest(), _encoded(ir)
    except LeylineError as error:
        raise InvalidEntry(f"blueprint {name!r}: {error}") from error
    values = {"digest": digest, "ir": encoded, "risk": risk, "approved": approved, "created_at": now}
    if not insert_if_absent(session, BlueprintRow, values):
        known = {"risk": risk} | ({"approved": True} if approved else {})
        session.execute(update(BlueprintRow).where(BlueprintRow.digest == digest).values(**known))
    if not insert_if_absent(session, BlueprintNameRow, {"name": name, "blueprint": digest}):
        session.execute(update(BlueprintNameRow).where(BlueprintNameRow.name == name).values(blueprint=digest))
    for parent in parents:
        _add_parent(session, digest, find(session, parent))
    return digest


def approve(session: Session, blueprint: str, approved: bool) -> None:
    """See ``Library.approve``."""
    found = find(session, blueprint)
    session.execute(update(BlueprintRow).where(BlueprintRow.digest == found).values(approved=approved))


def find(session: Session | Connection, blueprint: str) -> str:
    """The digest of a design known by this name or digest; raises ``UnknownBlueprint``."""
    checks.name(blueprint)
    digest = session.execute(select(BlueprintNameRow.blueprint).where(BlueprintNameRow.name == blueprint)).scalar()
    if digest is None:
        digest = session.execute(select(BlueprintRow.digest).where(BlueprintRow.digest == blueprint)).scalar()
    if digest is None:
        names = session.execute(select(BlueprintNameRow.name).order_by(BlueprintNameRow.name).limit(20)).scalars()
        known = ", ".join(names) or "none yet"
        raise UnknownBlueprint(f"blueprint {blueprint!r}: not in the library; it knows: {known}")
    return digest


def one(connection: Connection, blueprint: str) -> BlueprintRecord:
    """See ``Library.blueprint``."""
    digest = find(connection, blueprint)
    names = connection.execute(
        select(BlueprintNameRow.name).where(BlueprintNameRow.blueprint == digest).order_by(BlueprintNameRow.name)
    ).scalars()
    known = list(names)
    name = blueprint if blueprint in known or not known else known[0]
    row = connection.execute(select(BlueprintRow.__table__).where(BlueprintRow.digest == digest)).one()
    return _record(name, row, _edges(connection, ParentRow.child, ParentRow.parent, [digest]).get(digest, ()))


def every(connection: Connection, after: str = "", limit: int | None = None) -> list[BlueprintRecord]:
    """See ``Library.blueprints``; those whose names come after ``after``, at most ``limit``."""
    rows = connection.execute(
        select(BlueprintNameRow.name, BlueprintRow.__table__)
        .join(BlueprintRow, BlueprintRow.digest == BlueprintNameRow.blueprint)
        .where(BlueprintNameRow.name > after)
        .order_by(BlueprintNameRow.name)
        .limit(limit)
    ).all()
    digests = sorted({row.digest for row in rows})
    parents = _edges(connection, ParentRow.child, ParentRow.parent, digests)
    return [_record(row.name, row, parents.get(row.digest, ())) for row in rows]


def lineage(connection: Connection, blueprint: str) -> Lineage:
    """See ``Library.lineage``."""
    digest = find(connection, blueprint)
    up = _walk(digest, lambda asked: _edges(connection, ParentRow.child, ParentRow.parent, asked))
    down = _walk(digest, lambda asked: _edges(connection, ParentRow.parent, ParentRow.child, asked))
    return Lineage(digest, up, down)


def _encoded(ir: BlueprintIR) -> bytes:
    text = ir.to_json()
    return text if isinstance(text, bytes) else text.encode("utf-8")


def _record(name: str, row: object, parents: Iterable[str]) -> BlueprintRecord:
    digest, encoded = row.digest, row.ir  # type: ignore[attr-defined]
    try:
        ir = BlueprintIR.from_json(encoded)
    except LeylineError as error:
        raise LibraryError(f"blueprint {name!r}: what is stored can't be read ({error}); register it again") from error
    return BlueprintRecord(name, digest, ir, row.risk, row.approved, tuple(parents))  # type: ignore[attr-defined]


def _edges(
    connection: Session | Connection,
    start: InstrumentedAttribute[str],
    end: InstrumentedAttribute[str],
    asked: Sequence[str],
) -> dict[str, list[str]]:
    """From each of ``asked``, where its edges lead, sorted."""
    found: dict[str, list[str]] = defaultdict(list)
    for at in range(0, len(asked), _AT_ONCE):
        some = asked[at : at + _AT_ONCE]
        for source, target in connection.execute(select(start, end).where(start.in_(some)).order_by(end)):
            found[source].append(target)
    return found


def _walk(start: str, edges: Callable[[Sequence[str]], Mapping[str, list[str]]]) -> tuple[str, ...]:
    """Everything reachable, nearest first, each once; asks once for each generation."""
    found: dict[str, None] = {}
    generation = [start]
    while generation:
        leading = edges(generation)
        following = dict.fromkeys(target for source in generation for target in leading.get(source, ()))
        generation = [target for target in following if target not in found]
        found.update(dict.fromkeys(generation))
    return tuple(found)


def _add_parent(session: Session, child: str, parent: str) -> None:
    check_digest(parent)
    above = _walk(parent, lambda asked: _edges(session, ParentRow.child, ParentRow.parent, asked))
    if parent == child or child in above:
        raise InvalidEntry(f"blueprint {child[:16]}…: can't descend from {parent[:16]}…, which descends from it")
    insert_if_absent(session, ParentRow, {"child": child, "parent": parent})
