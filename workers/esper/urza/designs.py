"""Blueprints in the database: designs, their names, and who they come from."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from esper.urza import checks
from esper.urza.blobs import check_digest
from esper.urza.errors import InvalidEntry, LibraryError, UnknownBlueprint
from esper.urza.library import BlueprintRecord, Lineage
from esper.urza.models import BlueprintNameRow, BlueprintRow, ParentRow
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError


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
    row = session.get(BlueprintRow, digest)
    if row is None:
        session.add(BlueprintRow(digest=digest, ir=encoded, risk=risk, approved=approved, created_at=now))
        session.flush()
    else:
        row.risk, row.approved = risk, row.approved or approved
    named = session.get(BlueprintNameRow, name)
    if named is None:
        session.add(BlueprintNameRow(name=name, blueprint=digest))
    else:
        named.blueprint = digest
    for parent in parents:
        _add_parent(session, digest, find(session, parent))
    return digest


def approve(session: Session, blueprint: str, approved: bool) -> None:
    """See ``Library.approve``."""
    row = session.get(BlueprintRow, find(session, blueprint))
    assert row is not None, "find() returns digests that exist"
    row.approved = approved


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
    return _record(name, row, _parents(connection).get(digest, ()))


def every(connection: Connection) -> list[BlueprintRecord]:
    """See ``Library.blueprints``."""
    rows = connection.execute(
        select(BlueprintNameRow.name, BlueprintRow.__table__)
        .join(BlueprintRow, BlueprintRow.digest == BlueprintNameRow.blueprint)
        .order_by(BlueprintNameRow.name)
    )
    parents = _parents(connection)
    return [_record(row.name, row, parents.get(row.digest, ())) for row in rows]


def names(connection: Connection) -> dict[str, str]:
    """Every name and the digest of the design it stands for."""
    return {row.name: row.blueprint for row in connection.execute(select(BlueprintNameRow.__table__))}


def approved(connection: Connection) -> set[str]:
    """Digests of the designs a person allowed."""
    return set(connection.execute(select(BlueprintRow.digest).where(BlueprintRow.approved)).scalars())


def lineage(connection: Connection, blueprint: str) -> Lineage:
    """See ``Library.lineage``."""
    digest = find(connection, blueprint)
    parents = _parents(connection)
    children: dict[str, list[str]] = defaultdict(list)
    for child, of in sorted(parents.items()):
        for parent in of:
            children[parent].append(child)
    return Lineage(digest, _walk(digest, parents), _walk(digest, children))


def count(connection: Connection) -> int:
    """How many designs there are."""
    return connection.execute(select(func.count()).select_from(BlueprintRow)).scalar_one()


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


def _parents(session: Session | Connection) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = defaultdict(list)
    for child, parent in session.execute(select(ParentRow.child, ParentRow.parent).order_by(ParentRow.parent)):
        found[child].append(parent)
    return {child: tuple(parents) for child, parents in found.items()}


def _add_parent(session: Session, child: str, parent: str) -> None:
    check_digest(parent)
    if parent == child or child in _walk(parent, _parents(session)):
        raise InvalidEntry(f"blueprint {child[:16]}…: can't descend from {parent[:16]}…, which descends from it")
    if session.get(ParentRow, (child, parent)) is None:
        session.add(ParentRow(child=child, parent=parent))
        session.flush()


def _walk(start: str, edges: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Everything reachable, nearest first, each once."""
    found: dict[str, None] = {}
    waiting = deque(edges.get(start, ()))
    while waiting:
        digest = waiting.popleft()
        if digest not in found:
            found[digest] = None
            waiting.extend(edges.get(digest, ()))
    return tuple(found)
