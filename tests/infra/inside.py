"""The network of a cluster's node, for what must be reached by its pods or reach them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import parts

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def network(home: Path) -> Iterator[None]:
    """This thread is in the network of the cluster in ``home``: sockets it opens are the node's. Needs root."""
    with open("/proc/thread-self/ns/net") as here, open(_namespace(home)) as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def command(home: Path, *words: str, user: int = 0, group: int = 0) -> list[str]:
    """What runs a command in the network of the cluster, as another user if one is given."""
    return ["nsenter", f"--net={_namespace(home)}", f"--setgid={group}", f"--setuid={user}", "--", *words]


def _namespace(home: Path) -> str:
    return f"/proc/{parts.server_pid(home)}/ns/net"


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _NEW_NETWORK):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
