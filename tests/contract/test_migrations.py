"""The schema goes up and down with data in it, on every database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import real_postgres
from esper.errors import LibraryError
from esper.urza import FieldReport, SchemaTooNew, SchemaTooOld, SqlLibrary, State
from esper.urza.database import Database
from esper.urza.models import APPEND_ONLY, Base
from esper.urza.schema import HEAD, downgrade, known_revisions, revision_of, upgrade
from libraries import bring_to, design, enter


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/urza.sqlite"
        return
    with real_postgres.database() as made:
        yield made


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}


def content(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with database.reading() as connection:
        held = sa.MetaData()
        held.reflect(connection)
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in held.sorted_tables
            if table.name != "alembic_version"
        }


def stock(url: str, tmp_path: Path) -> None:
    """At least one row in every table."""
    library = SqlLibrary(url, tmp_path / "blobs")
    library.register_blueprint("mlp", design(), 0.3)
    library.register_blueprint("child", design(2), 0.3, parents=["mlp"])
    certified = enter(library, "mlp", design())
    bring_to(library, tmp_path, certified, State.VALIDATED, tags=["low_memory", "high_speed"])
    bring_to(library, tmp_path, enter(library, "child", design(2)), State.REJECTED)
    library.field_report(FieldReport("m1", "run", "a/1", "mlp", certified, "FOSSILIZED", 0.5, 0.4, {"effect": 0.1}))
    library.lease("run", [certified], 600)
    library.close()


def test_up_and_down_again_with_data(url: str, database: Database, tmp_path: Path) -> None:
    stock(url, tmp_path)
    full = content(database)
    assert all(full.values()), "every table has a row"
    assert {table.name for table in Base.metadata.sorted_tables} == set(full)
    downgrade(database, "0001")
    untagged = full | {"artifacts": [row[:-1] for row in full["artifacts"]]}
    assert content(database) == {name: rows for name, rows in untagged.items() if name != "leases"}
    assert upgrade(database) == HEAD
    assert content(database) == full | {"leases": []}
    library = SqlLibrary(url, tmp_path / "blobs")
    (certified,) = library.records([State.VALIDATED])
    assert certified.tags == ("high_speed", "low_memory")
    assert library.fetch(certified.artifact_id, tmp_path / "cache").is_dir()
    assert library.lease("run", [certified.artifact_id], 60) > 0
    library.close()
    for revision in (*known_revisions()[-2::-1], "base"):
        downgrade(database, revision)
    assert tables(database) == set()
    with database.reading() as connection:
        assert revision_of(connection) is None
    assert upgrade(database) == upgrade(database) == HEAD
    assert {name: [] for name in full} == content(database)


def test_the_migrations_make_exactly_the_models(database: Database) -> None:
    upgrade(database)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["UPDATE {0} SET id = id + 1", "DELETE FROM {0}"])
def test_what_was_reported_cannot_be_changed_even_with_sql(
    url: str, database: Database, tmp_path: Path, table: str, statement: str
) -> None:
    stock(url, tmp_path)
    before = content(database)
    with pytest.raises(LibraryError, match=f"{table} is append-only"), database.writing() as session:
        session.execute(sa.text(statement.format(table)))
    assert content(database) == before


def test_many_open_a_new_database_at_once(url: str, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def enter_it() -> None:
        try:
            SqlLibrary(url, tmp_path / "blobs").close()
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=enter_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_or_an_older_database_is_left_alone(url: str, database: Database, tmp_path: Path) -> None:
    with pytest.raises(SchemaTooOld, match=r"empty.*esper urza migrate"):
        SqlLibrary(url, tmp_path / "blobs", migrate=False)
    assert tables(database) == set()
    upgrade(database)
    downgrade(database, "0001")
    with pytest.raises(SchemaTooOld, match="0001"):
        SqlLibrary(url, tmp_path / "blobs", migrate=False)
    assert "leases" not in tables(database)
    with database.writing() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for migrate in (True, False):
        with pytest.raises(SchemaTooNew, match=r"'9999'.*upgrade Esper"):
            SqlLibrary(url, tmp_path / "blobs", migrate=migrate)
    with pytest.raises(SchemaTooNew, match="9999"):
        downgrade(database, "base")
    assert "artifacts" in tables(database)


def test_somebody_elses_database_is_left_alone(url: str, database: Database, tmp_path: Path) -> None:
    with database.writing() as session:
        session.execute(sa.text("CREATE TABLE holidays (day TEXT)"))
    with pytest.raises(LibraryError, match="holidays"):
        SqlLibrary(url, tmp_path / "blobs")
    assert tables(database) == {"holidays"}
