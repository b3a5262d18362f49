"""Running something in a forked child that may die: torch is imported once, so a child starts at once."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable


def forked(work: Callable[[], None], kill_after: float | None = None) -> int:
    """Run ``work`` in a child; returns its exit status, or minus the signal that ended it.

    ``kill_after``: seconds after which the child gets SIGKILL.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not run on as the parent
            traceback.print_exc()
        finally:
            os._exit(status)
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def die() -> None:
    """kill -9 this process."""
    os.kill(os.getpid(), signal.SIGKILL)
