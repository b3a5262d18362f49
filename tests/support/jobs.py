"""What children do in the tests of the build server: everything a build should not."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Arguments = Mapping[str, Any]
Confined = Mapping[str, str]


def answer(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    return {"number": arguments.get("number"), "module": os.getpid(), "parent": os.getppid()}


def fail(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    raise ValueError("no such thing")


def crash(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def leave(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    os._exit(arguments["status"])


def kill_itself(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def eat(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    return {"eaten": len(b"x" * (arguments["megabytes"] << 20))}


def write(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    Path("large").write_bytes(b"x" * (arguments["megabytes"] << 20))
    return {}


def sleep_with_a_child(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    child = subprocess.Popen(["sleep", "120"])
    note = Path(arguments["note"])
    note.with_suffix(".tmp").write_text(str(child.pid))
    note.with_suffix(".tmp").rename(note)
    time.sleep(120)
    return {}


def flood(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    return {"text": "x" * (8 << 20)}


def connect(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    with socket.socket() as client:
        client.settimeout(2)
        reached = True
        try:
            client.connect(("192.0.2.1", 80))
        except OSError:
            reached = False
    up = [name for _, name in socket.if_nameindex()]
    return {"reached": reached, "interfaces": up, "confined": dict(confined)}


def look_around(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    return {"nice": os.nice(0), "cwd": os.getcwd(), "environment": sorted(os.environ)}


def imported(arguments: Arguments, confined: Confined) -> dict[str, Any]:
    return {"before": arguments["name"] in sys.modules}
