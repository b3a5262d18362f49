"""What is particular about the library on a PostgreSQL server: snapshots, named locks, its errors.

There is no lock over all writers: each step locks the row it decides on, and is repeated harmlessly if the server went
away in the middle of it.
"""

from __future__ import annotations

import hashlib
import time

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from esper.urza.errors import LibraryBusy, LibraryError, LibraryFull, LibraryUnavailable

CONNECT_SECONDS = 5
POOL, OVERFLOW = 8, 24
IDLE_SECONDS = 5.0
_REFUSED = {
    "28": "refuses the user or the password; check the credentials in its URL",
    "3D": "has no such database; create it, or name another one",
    "42501": "does not allow this user to do that; grant it the rights on the library's tables",
}
# Refusals while connecting come without a code; these are the server's words for them.
_WORDS = {
    "authentication failed": "28",
    "no pg_hba.conf entry": "28",
    'role "': "28",
    'database "': "3D",
}
_LATER = ("08", "57P", "53300", "55000", "XX")


class Postgres:
    """A server by its URL; ``busy_seconds`` bounds the wait for another transaction's lock."""

    def __init__(self, url: URL, busy_seconds: float) -> None:
        self.url = url.set(drivername="postgresql+psycopg")
        self.place = f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"
        self._busy_seconds = busy_seconds

    def engines(self) -> tuple[Engine, Engine, Engine]:
        """For reading, where a transaction sees one state throughout; writing; and asking once; all on one pool."""
        milliseconds = max(1, round(self._busy_seconds * 1e3))
        engine = create_engine(
            self.url,
            pool_size=POOL,
            max_overflow=OVERFLOW,
            pool_timeout=self._busy_seconds,
            # The connection used last has plans and caches that are warm.
            pool_use_lifo=True,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                # Every statement is one of few: planned once for each connection.
                "prepare_threshold": 0,
                "application_name": "urza",
                "options": f"-c lock_timeout={milliseconds} -c idle_in_transaction_session_timeout=60000",
                # A server whose machine vanished is noticed within half a minute, not within hours.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 4,
            },
        )
        event.listen(engine, "checkin", _remember)
        event.listen(engine, "checkout", _check)
        reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        # A single statement sees one state anyway, and without a transaction it is one message instead of three.
        asking = engine.execution_options(isolation_level="AUTOCOMMIT")
        return reading, engine.execution_options(isolation_level="READ COMMITTED"), asking

    def alone(self, connection: psycopg.Connection[object], alone: bool) -> None:
        """Have the driver's connection send a question without a transaction around it, or stop that."""
        connection.autocommit = alone

    def lock(self, connection: Connection, name: str, shared: bool) -> None:
        """Take a lock known to all processes by its name until the transaction ends."""
        number = int.from_bytes(hashlib.sha256(f"urza {name}".encode()).digest()[:8], "big", signed=True)
        take = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        connection.execute(select(take(number)))

    def explained(self, cause: BaseException | None) -> LibraryError:
        """The library's error for one of the driver's."""
        state = getattr(cause, "sqlstate", None) or ""
        # What a server says of a statement comes first, what a connection failed of comes last.
        lines = str(cause).strip().splitlines() or ["no answer"]
        said = lines[0] if state else lines[-1]
        if state in ("40001", "40P01", "55P03", "57014"):
            return LibraryBusy(f"{self.place}: another process holds what this one needs ({said}); try again")
        if state.startswith("53") and state != "53300":
            return LibraryFull(f"{self.place}: out of space or memory ({said}); free some, nothing was lost")
        if not state:
            state = next((code for words, code in _WORDS.items() if words in said), "")
        for start, what in _REFUSED.items():
            if state.startswith(start):
                return LibraryUnavailable(f"{self.place}: {what} ({said})")
        # The driver gives no code when there is no server to give one, or when it goes away in mid-sentence.
        gone = not state and isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
        if gone or state.startswith(_LATER):
            return LibraryUnavailable(f"{self.place}: can't be reached or is going away ({said}); is the server up?")
        return LibraryError(f"{self.place}: {said}")


def _remember(connection: object, record: ConnectionPoolEntry) -> None:
    record.info["idle_since"] = time.monotonic()


def _check(connection: psycopg.Connection[object], record: ConnectionPoolEntry, proxy: object) -> None:
    """Ask a connection that was idle for a while whether its server is still there; a busy one need not be asked."""
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) < IDLE_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        raise DisconnectionError from error
