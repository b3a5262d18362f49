from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.errors import LibraryError
from esper.urza import SqlLibrary
from esper.urza.database import Database
from esper.urza.models import APPEND_ONLY
from esper.urza.schema import HEAD, downgrade, known_revisions, upgrade


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "urza.sqlite")


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {row[0] for row in rows} - {"alembic_version"}


def test_the_head_is_the_newest_migration() -> None:
    assert known_revisions()[-1] == HEAD


def test_every_append_only_table_has_its_triggers(database: Database) -> None:
    upgrade(database)
    assert {f"{table}_no_{action}" for table in APPEND_ONLY for action in ("update", "delete", "replace")} <= tables(
        database
    )


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "statement", ["UPDATE {0} SET id = id + 1", "DELETE FROM {0}", "REPLACE INTO {0} SELECT * FROM {0}"]
)
def test_what_was_reported_cannot_be_changed_even_with_sql(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path, table: str, statement: str
) -> None:
    from esper.urza import FieldReport

    one = sample()
    one.enter(library)
    library.reject(one.id, "wrong", one.report())
    library.field_report(FieldReport("m", "run", "seed", one.name, one.id, "CULLED"))
    library.close()
    with sqlite3.connect(tmp_path / "library" / "urza.sqlite") as connection:
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
        assert before
        with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
            connection.execute(statement.format(table))
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == before


def test_an_unknown_revision_is_refused(database: Database) -> None:
    upgrade(database)
    with pytest.raises(LibraryError, match="0042"):
        downgrade(database, "0042")


def test_a_failed_migration_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    real = Operations.execute
    calls = []

    def failing(self: Operations, statement: str) -> None:
        calls.append(statement)
        if len(calls) == 5:
            raise sqlite3.OperationalError("power cut")
        real(self, statement)

    monkeypatch.setattr(Operations, "execute", failing)
    with pytest.raises(LibraryError, match="power cut"):
        upgrade(database)
    assert tables(database) == set()
    monkeypatch.undo()
    upgrade(database)
    assert "artifacts" in tables(database)
