"""Real servers for tests: each started once for a test run, shared by its workers, gone when the run is.

What a server said of itself is kept in ``part.json`` in its home, a directory named after the run that owns it. A
home whose run is no more belongs to nobody: the next start kills what is left and removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keeper import started

TOOLS = Path(__file__).resolve().parents[2] / ".tools"
HOMES = Path(tempfile.gettempdir()) / f"esper-parts-{os.getuid()}"
KEEPER = Path(__file__).with_name("keeper.py")


class PartMissing(Exception):
    """A real part can't be had on this machine; the message says what to install."""


def unavailable(reason: str) -> NoReturn:
    """Skip the test, loudly; where every part must be there (CI=true) fail it."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; in CI it must be there (tests/infra/setup.sh installs it)", pytrace=False)
    pytest.skip(f"NOT TESTED: {reason} (tests/infra/setup.sh installs it)")


def owner() -> tuple[int, str]:
    """The process of the whole test run: pytest itself, or the one that started its workers."""
    pid = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
    return pid, started(pid)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; released by the kernel when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def built(folder: Path, what: str, build: Callable[[Path], None]) -> Path:
    """A folder that ``build`` fills once, with Go; raises ``PartMissing`` where there is none."""
    if folder.exists():
        return folder
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            if shutil.which("go") is None:
                raise PartMissing(f"{what} can't be built: there is no Go (1.26 or newer) on the PATH")
            aside = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(aside, ignore_errors=True)
            build(aside)
            aside.rename(folder)
    return folder


def go_install(package: str, into: Path, *, flags: str = "-s -w", home: Path | None = None) -> None:
    """``go install``, at low priority: a cold build keeps two cores busy for minutes; raises ``PartMissing``."""
    done = subprocess.run(
        ["nice", "go", "install", "-trimpath", "-ldflags", flags, package], text=True, stderr=subprocess.PIPE,
        check=False, cwd=home, env=os.environ | {"GOBIN": str(into), "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
    )  # fmt: skip
    if done.returncode:
        raise PartMissing(f"{into.name} can't be built: {done.stderr[-2000:]}")


def shared(name: str, start: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What ``start`` said of the server, which it started in the home it was given; once for each test run."""
    pid, since = owner()
    home = HOMES / f"{name}-{pid}-{since}"
    with locked(HOMES / f"{name}.lock"):
        remove_stale(name)
        facts = home / "part.json"
        if not facts.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o755)
            written = json.dumps(start(home))
            (home / "part.new").write_text(written)
            os.replace(home / "part.new", facts)
        known: dict[str, Any] = json.loads(facts.read_text())
        return known


@contextlib.contextmanager
def private(name: str) -> Iterator[Path]:
    """A home for a server of one test only, which may kill it; whatever runs there ends with the block."""
    pid, since = owner()
    home = HOMES / f"{name}.{secrets.token_hex(4)}-{pid}-{since}"
    with locked(HOMES / f"{name}.lock"):
        remove_stale(f"{name}.*")
        home.mkdir(mode=0o755)
    try:
        yield home
    finally:
        stop(home)
        shutil.rmtree(home, ignore_errors=True)


def remove_stale(name: str) -> None:
    """End what runs that are no more have left, by their recorded process ids, and remove their homes."""
    for home in HOMES.glob(f"{name}-*-*"):
        _, pid, since = home.name.rsplit("-", 2)
        if started(int(pid)) == since:
            continue
        for record in ("keeper.pid", "server.pid"):
            for found in (home / record, *home.glob(f"*/{record}")):  # each of several servers has its own folder
                _end(found)
        shutil.rmtree(home, ignore_errors=True)


def launch(command: Sequence[str], home: Path, *, stop: int = signal.SIGTERM, user: str = "", **env: str) -> int:
    """Start a server under a keeper, its output in ``server.log``; returns the keeper's process id."""
    pid, since = owner()
    for old in ("keeper.pid", "server.pid"):
        (home / old).unlink(missing_ok=True)
    with open(home / "server.log", "ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-S", str(KEEPER), str(pid), since, str(int(stop)), str(home), user, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"} | env,
            start_new_session=True,
        )
    (home / "keeper.pid").write_text(f"{keeper.pid} {started(keeper.pid)}")
    return keeper.pid


def server_pid(home: Path, patience: float = 10.0) -> int:
    """Process id of the server a keeper has started, for tests that kill it."""
    await_ready(lambda: (home / "server.pid").exists(), home, patience)
    return int((home / "server.pid").read_text().split()[0])


def stop(home: Path, patience: float = 15.0) -> None:
    """End a server in good order, and wait until it has."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pid, _, since = (home / "keeper.pid").read_text().partition(" ")
        if started(int(pid)) == since:
            os.kill(int(pid), signal.SIGTERM)
        deadline = time.monotonic() + patience
        while started(int(pid)) == since and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), os.WNOHANG)
            time.sleep(0.02)


def await_ready(ready: Callable[[], bool], home: Path, patience: float = 30.0) -> None:
    """Wait until ``ready``; raises ``PartMissing`` with the server's last words when it takes too long."""
    deadline = time.monotonic() + patience
    while not ready():
        if time.monotonic() > deadline:
            log = home / "server.log"
            words = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise PartMissing(f"{home.name}: not ready after {patience:g} s; it said: {words}")
        time.sleep(0.02)


def free_port() -> int:
    """A port on loopback nobody listens on now.

    Not one of those that the system gives to outgoing connections (on Linux from 32768 on): by the time a server
    starts, one of those may be a client's. Nor one around 10250, where Kubernetes' own programs are.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens on this port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _end(record: Path) -> None:
    try:
        pid, _, since = record.read_text().partition(" ")
        if started(int(pid)) == since:
            os.kill(int(pid), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return  # gone already, or killed before it wrote its id: then its keeper was never ready to start anything
