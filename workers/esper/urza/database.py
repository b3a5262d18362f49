"""Opening the library's database: one writer at a time, readers never wait, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from esper.urza.errors import LibraryBusy, LibraryError, LibraryFull, LibraryUnavailable

_WRITES = "esper_writes"
_RETRY_SECONDS = 0.02


class Database:
    """A SQLite file in write-ahead mode, for any number of threads and processes.

    Every commit is flushed to the disk. A writer takes the lock when its transaction begins, so that what it reads
    cannot change before it writes; it waits at most ``busy_seconds`` for another one.

    Raises:
        LibraryError: the URL is not one of SQLite.
        LibraryUnavailable: the file can't be opened, or its file system can't share it.
    """

    def __init__(self, url: str | Path, *, busy_seconds: float = 30.0) -> None:
        self.url = _url_of(url)
        self.place = self.url.database or ""
        self._busy_seconds = busy_seconds
        if self.place in ("", ":memory:") or self.place.startswith("file:"):
            raise LibraryError(f"library URL {url!s}: name a file, as in sqlite:///path/to/urza.sqlite")
        try:
            Path(self.place).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryUnavailable(f"{self.place}: its directory can't be made: {error.strerror or error}") from error
        self.engine = create_engine(self.url, connect_args={"timeout": busy_seconds}, pool_size=8, max_overflow=24)
        event.listen(self.engine, "connect", self._prepare)
        event.listen(self.engine, "begin", _begin)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A snapshot: sees one state of the database throughout, whatever others write."""
        with self._translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """The only writer, committed at the end of the block or not at all."""
        writer = self.engine.execution_options(**{_WRITES: True})
        with self._translated(), Session(writer) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close idle connections."""
        self.engine.dispose()

    def _prepare(self, connection: sqlite3.Connection, record: Any) -> None:
        # The driver's own transactions begin too late and without the lock: _begin does it instead.
        connection.isolation_level = None
        self._to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    def _to_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to write-ahead mode; SQLite does not wait for other openers here, so this does."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
                if mode != "wal":
                    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
                continue
            if mode == "wal":
                return
            raise LibraryUnavailable(
                f"{self.place}: this file system can't hold a shared database (journal mode {mode}); "
                "put the library on a local disk"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise self._explained(cause) from error
        except PoolTimeout as error:
            raise LibraryBusy(f"{self.place}: too many threads use the library at once; {error}") from error

    def _explained(self, cause: BaseException | None) -> LibraryError:
        code = getattr(cause, "sqlite_errorcode", 0) or 0
        match code & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return LibraryBusy(
                    f"{self.place}: another process has held the write lock for {self._busy_seconds:g} s; "
                    "end it, or try again"
                )
            case sqlite3.SQLITE_FULL:
                return LibraryFull(f"{self.place}: no space left to write; free some, nothing was lost")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
                return LibraryUnavailable(
                    f"{self.place}: can't be opened for writing ({cause}); check that it and its directory are yours"
                )
            case sqlite3.SQLITE_IOERR:
                return LibraryUnavailable(f"{self.place}: the disk failed ({cause}); check it and its free space")
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
                return LibraryUnavailable(
                    f"{self.place}: is not a library or is damaged ({cause}); restore it, or name another file"
                )
        return LibraryError(f"{self.place}: {cause}")


def _url_of(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise LibraryError(f"library URL {url!r}: not a database URL ({error})") from error
    if backend != "sqlite":
        raise LibraryError(
            f"library URL {parsed.render_as_string(hide_password=True)!r}: this version keeps its library in SQLite "
            "only; use sqlite:///path/to/urza.sqlite"
        )
    return parsed


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
