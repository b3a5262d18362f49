"""Runs one server for a test run and ends with it, however the run ends.

    python keeper.py OWNER_PID OWNER_STARTED STOP_SIGNAL HOME USER -- COMMAND...

The server dies when its owner (the pytest process) is gone, when the keeper is asked to end, and by the kernel's hand
when the keeper itself is killed. HOME is removed afterwards.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.3
GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def started(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; empty when there is none."""
    try:
        # The name in parentheses may hold anything; what follows the last one is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _dies_with_keeper() -> None:
    os.setsid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Start, wait, stop."""
    owner, since, stop, home, user = sys.argv[1:6]
    wanted = True

    def end(*_: object) -> None:
        nonlocal wanted
        wanted = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(sys.argv[7:], user=user or None, group=None, preexec_fn=_dies_with_keeper)
    (Path(home) / "server.pid").write_text(f"{server.pid} {started(server.pid)}")
    while wanted and server.poll() is None and started(int(owner)) == since:
        time.sleep(POLL_SECONDS)
    if server.poll() is None:
        server.send_signal(int(stop))
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    if started(int(owner)) != since:
        shutil.rmtree(home, ignore_errors=True)
    return server.returncode


if __name__ == "__main__":
    sys.exit(main())
