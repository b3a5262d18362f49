"""Versions of the database schema: brought up to date when a library is opened, and down again on request."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, select
from sqlalchemy import table as sql_table
from sqlalchemy.sql import column

from esper.urza.database import Database
from esper.urza.errors import LibraryError, SchemaTooNew, SchemaTooOld

HEAD = "0003"
"""The schema this version works with; a test compares it with the migrations."""
SCHEMA_LOCK = "schema"
MIGRATIONS = Path(__file__).parent / "migrations"

_VERSION = sql_table("alembic_version", column("version_num"))


def revision_of(connection: Connection) -> str | None:
    """The schema version of an open database, ``None`` for an empty one.

    Raises:
        LibraryError: the database holds something else.
    """
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        row: str | None = connection.execute(select(_VERSION.c.version_num)).scalar()
        return row
    if tables:
        raise LibraryError(
            f"{connection.engine.url.database}: holds the tables {', '.join(sorted(tables)[:5])} but no library; "
            "name another file"
        )
    return None


def upgrade(database: Database) -> str:
    """Bring a database to ``HEAD`` (making it when it is empty) and return its version.

    Any number of processes may do this at once: the first does the work under the write lock.

    Raises:
        SchemaTooNew: a newer version of Esper wrote it.
        LibraryError: the database holds something else.
    """
    with database.reading() as connection:
        current = revision_of(connection)
    if current == HEAD:
        return HEAD
    with database.writing() as session:
        database.lock(session, SCHEMA_LOCK)
        connection = session.connection()
        current = revision_of(connection)
        _refuse_unknown(current, database.place)
        _migrate(connection, HEAD)
    return HEAD


def require(database: Database) -> None:
    """Make sure a database is at ``HEAD`` without touching it.

    Raises:
        SchemaTooNew, SchemaTooOld: it is further on, or not as far.
        LibraryError: it holds something else.
    """
    with database.reading() as connection:
        current = revision_of(connection)
    _refuse_unknown(current, database.place)
    if current != HEAD:
        raise SchemaTooOld(
            f"{database.place}: its schema is {current or 'empty'}, this version of Esper needs {HEAD!r}; "
            "bring it up to date with `esper urza migrate`"
        )


def downgrade(database: Database, revision: str) -> None:
    """Take the schema back to ``revision`` (``base``: drop everything, with all that is in it).

    Raises:
        SchemaTooNew, LibraryError: as for ``upgrade``; also for a revision there is not.
    """
    if revision != "base" and revision not in known_revisions():
        raise LibraryError(f"schema {revision!r}: not a revision; known: base, {', '.join(known_revisions())}")
    with database.writing() as session:
        database.lock(session, SCHEMA_LOCK)
        connection = session.connection()
        _refuse_unknown(revision_of(connection), database.place)
        _migrate(connection, revision, down=True)


def known_revisions() -> tuple[str, ...]:
    """Every revision this version knows, oldest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())[::-1]


def _refuse_unknown(current: str | None, place: str) -> None:
    if current is not None and current not in known_revisions():
        raise SchemaTooNew(
            f"{place}: its schema is {current!r}, this version of Esper knows up to {HEAD!r}; "
            "upgrade Esper, or name another library"
        )


def _migrate(connection: Connection, revision: str, *, down: bool = False) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    (command.downgrade if down else command.upgrade)(config, revision)
