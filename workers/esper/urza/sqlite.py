"""What is particular about the library in a SQLite file: its write lock, its write-ahead log, its errors."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from esper.urza.errors import LibraryBusy, LibraryError, LibraryFull, LibraryUnavailable

_WRITES = "esper_writes"
_RETRY_SECONDS = 0.02
CACHE_KIB = 16 * 1024
"""Pages kept by a connection; the artifacts of one interface lie all over a large library."""


class Sqlite:
    """A file in write-ahead mode: every commit is flushed, one writer at a time, readers never wait."""

    def __init__(self, url: URL, busy_seconds: float) -> None:
        self.url, self.place = url, url.database or ""
        self._busy_seconds = busy_seconds
        if self.place in ("", ":memory:") or self.place.startswith("file:"):
            raise LibraryError(f"library URL {url!s}: name a file, as in sqlite:///path/to/urza.sqlite")
        try:
            Path(self.place).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LibraryUnavailable(f"{self.place}: its directory can't be made: {error.strerror or error}") from error

    def engines(self) -> tuple[Engine, Engine, Engine]:
        """For reading, for writing and for asking once, all on one pool."""
        engine = create_engine(self.url, connect_args={"timeout": self._busy_seconds}, pool_size=8, max_overflow=24)
        event.listen(engine, "connect", self._prepare)
        event.listen(engine, "begin", _begin)
        return engine, engine.execution_options(**{_WRITES: True}), engine

    def alone(self, connection: sqlite3.Connection, alone: bool) -> None:
        """Nothing to do: the driver begins no transactions."""

    def lock(self, connection: Connection, name: str, shared: bool) -> None:
        """Nothing to do: whoever writes is alone."""

    def explained(self, cause: BaseException | None) -> LibraryError:
        """The library's error for one of the driver's."""
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

    def _prepare(self, connection: sqlite3.Connection, record: Any) -> None:
        # The driver's own transactions begin too late and without the lock: _begin does it instead.
        connection.isolation_level = None
        self._to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

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


def _begin(connection: Connection) -> None:
    # A writer takes the lock at once, so that what it reads cannot change before it writes.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
