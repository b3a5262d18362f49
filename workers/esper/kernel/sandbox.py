"""What a build or benchmark process gives up before it runs anything: priority, memory, time, network, privileges."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import resource
import signal
from collections.abc import Mapping
from typing import Any

__all__ = ["confine", "die_with_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel end this process when the one that forked it ends, whatever the reason."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def confine(limits: Mapping[str, Any]) -> dict[str, str]:
    """Apply ``limits`` to this process for good and say what holds.

    ``nice`` is added to the priority; ``memory_bytes`` bounds private memory, ``cpu_seconds`` processor time,
    ``file_bytes`` the size of any file written; ``network`` False cuts it off from every network where the kernel lets
    it. The answer names each measure with ``on``, or with the reason why it could not be taken.
    """
    state = {"privileges": "on" if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 else _reason()}
    os.nice(int(limits.get("nice", 0)))
    _limit(resource.RLIMIT_CORE, 0)
    for name, kind in (
        ("memory_bytes", resource.RLIMIT_DATA),
        ("cpu_seconds", resource.RLIMIT_CPU),
        ("file_bytes", resource.RLIMIT_FSIZE),
        ("open_files", resource.RLIMIT_NOFILE),
    ):
        if limits.get(name):
            _limit(kind, int(limits[name]))
            state[name] = "on"
    if not limits.get("network", True):
        state["network"] = _leave_network()
    return state


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _leave_network() -> str:
    """Move into a network namespace that has no interface; as an ordinary user by way of a user namespace."""
    reason = ""
    for flags in (_CLONE_NEWNET, _CLONE_NEWNET | _CLONE_NEWUSER):
        if _libc.unshare(flags) == 0:
            return "on"
        reason = _reason()
    return reason


def _reason() -> str:
    return f"not available: {os.strerror(ctypes.get_errno())}"
