"""PostgreSQL for tests: one server a test run, a fresh database a test, copied from a template.

A server that is there already is used when ``DATABASE_URL`` names it; its user must be allowed to make databases.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import URL, make_url

import parts

VERSIONS = Path("/usr/lib/postgresql")
# Not on the disk when they return: a test's data need not outlive the machine, only the processes.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
}
_BUSY = ("55006", "42P04", "23505")


def binaries() -> Path:
    """Where the server's programs are; raises ``PartMissing``."""
    found = sorted(VERSIONS.glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    if not found:
        raise parts.PartMissing("PostgreSQL's server programs are not installed (Debian package postgresql)")
    return found[-1].parent


def start(home: Path) -> dict[str, Any]:
    """Make a cluster in ``home`` and start it; returns its ``url`` and ``home``."""
    port = parts.free_port()
    url = make(home, port)
    begin(home, port)
    return {"home": str(home), "port": port, "url": url}


def make(home: Path, port: int) -> str:
    """Make a cluster in ``home``; returns the URL its administrator will have once it is started on ``port``."""
    user = run_as()
    password = secrets.token_hex(8)
    data, secret = home / "data", home / "secret"
    secret.write_text(password)
    if user:
        for path in (home, secret):
            shutil.chown(path, user)
    # Sorted as a person would: a query that relies on the order of bytes has to say so.
    subprocess.run(
        [binaries() / "initdb", "-D", data, "-U", "esper", "--pwfile", secret, "-A", "scram-sha-256", "--no-sync",
         "-E", "UTF8", "--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"],
        check=True, capture_output=True, text=True, user=user or None, cwd=home, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return _url(port, password).render_as_string(hide_password=False)


def command(home: Path, port: int) -> list[str]:
    """What starts the server of a cluster that was made."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    return [str(binaries() / "postgres"), "-D", str(home / "data"), "-p", str(port), *options]


def begin(home: Path, port: int) -> None:
    """Start the server of a cluster that was made, on its port; waits until it takes connections."""
    parts.launch(command(home, port), home, stop=signal.SIGINT, user=run_as())
    url = _url(port, (home / "secret").read_text())
    parts.await_ready(lambda: accepts(url), home)


def accepts(url: URL) -> bool:
    """Whether the server takes connections."""
    with contextlib.suppress(psycopg.OperationalError):
        _connect(url).close()
        return True
    return False


def server() -> URL:
    """The server of this test run, as its administrator; the test is skipped, or fails in CI, where there is none."""
    given = os.environ.get("DATABASE_URL", "")
    if given:
        return make_url(given).set(drivername="postgresql+psycopg")
    try:
        return make_url(parts.shared("postgres", start)["url"])
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


def ensure(admin: URL, name: str) -> None:
    """Make a database, unless it is there."""
    with _connect(admin) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            connection.execute(f'CREATE DATABASE "{name}"')


def template(name: str, fill: Callable[[str], None]) -> str:
    """A database named after ``name`` that ``fill`` has prepared, once; to be copied by ``database``."""
    admin = server()
    copied = f"esper_template_{name}"
    with parts.locked(parts.HOMES / "postgres-template.lock"), _connect(admin) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (copied,)).fetchone():
            draft = f"{copied}_{secrets.token_hex(4)}"
            connection.execute(f'CREATE DATABASE "{draft}"')
            fill(admin.set(database=draft).render_as_string(hide_password=False))
            # Whole or not there at all, also when whoever fills it is killed.
            connection.execute(f'ALTER DATABASE "{draft}" RENAME TO "{copied}"')
    return copied


@contextlib.contextmanager
def database(copied: str = "template1") -> Iterator[str]:
    """URL of a database of its own, dropped at the end."""
    admin = server()
    name = f"esper_{secrets.token_hex(8)}"
    _create(admin, name, copied)
    try:
        yield admin.set(database=name).render_as_string(hide_password=False)
    finally:
        with _connect(admin) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _create(admin: URL, name: str, copied: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with _connect(admin) as connection:
                connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{copied}"')
            return
        except psycopg.Error as error:
            if error.sqlstate not in _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _connect(url: URL) -> psycopg.Connection[Any]:
    conninfo = make_conninfo(
        host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database or "postgres",
        connect_timeout=5,
    )  # fmt: skip
    return psycopg.connect(conninfo, autocommit=True)


def _url(port: int, password: str) -> URL:
    return URL.create("postgresql+psycopg", "esper", password, "127.0.0.1", port, "postgres")


def run_as() -> str:
    """Whose server it is, where it can't be this process's own user: its programs refuse to run as root."""
    if os.geteuid() != 0:
        return ""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
