"""Opening the library's database: reading sees one state, writing is all or nothing, and errors say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Dialect, Engine, Select
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from esper.urza.errors import LibraryBusy, LibraryError
from esper.urza.models import Base

BLOBS_LOCK = "blobs"
"""Held shared by whoever gives blobs a row, alone by whoever removes blobs without one."""


class Backend(Protocol):
    """What differs between kinds of database; ``place`` names it in messages, without a secret."""

    url: URL
    place: str

    def engines(self) -> tuple[Engine, Engine, Engine]:
        """For reading, for writing and for asking once, all on one pool."""

    def alone(self, connection: Any, alone: bool) -> None:
        """Have the driver's connection send a question without a transaction around it, or stop that."""

    def lock(self, connection: Connection, name: str, shared: bool) -> None:
        """Take a lock known to all processes by its name until the transaction ends."""

    def explained(self, cause: BaseException | None) -> LibraryError:
        """The library's error for one of the driver's."""


class Prepared:
    """A statement as the driver takes it. Writing it anew costs more than most answers do."""

    def __init__(self, dialect: Dialect, asked: Select[*tuple[Any, ...]]) -> None:
        compiled = asked.compile(dialect=dialect)
        self.text = str(compiled)
        self._order = getattr(compiled, "positiontup", None) if compiled.positional else None
        self._names = tuple(compiled.params)

    def given(self, values: Mapping[str, Any]) -> Any:
        """The values as the driver takes them."""
        if self._order is not None:
            return tuple(values[name] for name in self._order)
        return {name: values[name] for name in self._names}


class Database:
    """A SQLite file or a PostgreSQL server, for any number of threads and processes.

    What is committed is on the disk. A writer waits at most ``busy_seconds`` for another one.

    Raises:
        LibraryError: the URL is not one of either.
        LibraryUnavailable: a file can't be opened, or its file system can't share it.
    """

    def __init__(self, url: str | Path, *, busy_seconds: float = 30.0) -> None:
        self._backend = _backend(url, busy_seconds)
        self.place = self._backend.place
        self.engine, self._writer, self._asker = self._backend.engines()
        self._failures = self.engine.dialect.loaded_dbapi.Error

    @property
    def shared(self) -> bool:
        """Whether writers work side by side: they lock rows, not the whole database."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A snapshot: sees one state of the database throughout, whatever others write."""
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """For a single question, which sees one state by itself; two of them may see two."""
        with self._translated(), self._asker.connect() as connection, connection.begin():
            yield connection

    def rows(self, question: Prepared, values: Mapping[str, Any]) -> list[Any]:
        """Every row of one question, which sees one state by itself as with ``asking``.

        Straight from the driver: for a question that is asked again and again, what lies above it costs more than it.
        """
        with self._translated():
            pooled = self.engine.raw_connection()
        connection: Any = pooled.driver_connection
        try:
            self._backend.alone(connection, True)
            cursor = pooled.cursor()
            cursor.execute(question.text, question.given(values))
            found = list(cursor.fetchall())
            cursor.close()
            self._backend.alone(connection, False)
        except self._failures as error:
            # Whatever state it is in, the next question gets a new one; and so do all when it was the server that went.
            gone = self.engine.dialect.is_disconnect(error, connection, None)
            pooled.invalidate(error)
            if gone:
                self.engine.dispose()
            raise self._backend.explained(error) from error
        except BaseException:
            pooled.invalidate()
            raise
        pooled.close()
        return found

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A writer's transaction, committed at the end of the block or not at all.

        In SQLite it is the only one; on a server others go on, and ``lock`` or a locked row keeps them off.
        """
        with self._translated(), Session(self._writer) as session, session.begin():
            yield session

    def lock(self, session: Session, name: str, *, shared: bool = False) -> None:
        """Keep other processes off what goes by this name until the transaction ends.

        Taken before any row is locked, so that nobody waits for each other in a circle.
        """
        self._backend.lock(session.connection(), name, shared)

    def close(self) -> None:
        """Close idle connections."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise self._backend.explained(cause) from error
        except PoolTimeout as error:
            raise LibraryBusy(f"{self.place}: too many threads use the library at once; {error}") from error


def insert_if_absent(session: Session, table: type[Base], values: dict[str, Any]) -> bool:
    """Add a row unless one with its key or a unique value is there, also one added at this moment; tells which."""
    on_server = session.get_bind().dialect.name == "postgresql"
    insert = postgresql_dialect.insert if on_server else sqlite_dialect.insert
    statement = insert(table.__table__).values(**values).on_conflict_do_nothing()  # type: ignore[arg-type]
    return session.connection().execute(statement.execution_options(preserve_rowcount=True)).rowcount == 1


def _backend(url: str | Path, busy_seconds: float) -> Backend:
    from esper.urza.sqlite import Sqlite

    if isinstance(url, Path) or "://" not in url:
        return Sqlite(URL.create("sqlite", database=str(url)), busy_seconds)
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise LibraryError(f"library URL {_without_password(url)!r}: not a database URL") from error
    if kind == "sqlite":
        return Sqlite(parsed, busy_seconds)
    if kind == "postgresql":
        from esper.urza.postgres import Postgres

        return Postgres(parsed, busy_seconds)
    raise LibraryError(
        f"library URL {parsed.render_as_string(hide_password=True)!r}: a library is kept in SQLite or PostgreSQL; use "
        "sqlite:///path/to/urza.sqlite or postgresql://user@host/database"
    )


def _without_password(url: str) -> str:
    """The part of a URL that can't hold one, when it can't be taken apart."""
    return url.split("://", 1)[0] + "://…"
