"""The first process of a one-node cluster, in namespaces of its own: when it ends, the kernel ends all the rest.

    python kube_init.py HOME PORT              listen on loopback, then go on inside new namespaces
    python kube_init.py HOME --inside SOCKET   start the programs of HOME/processes.json, pass connections on

Processes, mounts, bridge, veths and iptables rules exist only in those namespaces, so nothing has to be cleaned up
after them, however they end; only cgroups outlive them (``real_cluster`` removes those).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

API = 6443
BRIDGE, ADDRESS = "cni0", "10.244.0.1/24"
CGROUPS = Path("/sys/fs/cgroup")
OWN_TMPFS = ("/run", "/var/log", "/var/lib/cni")
NOT_THE_MACHINES = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
                    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")  # fmt: skip
"""Settings of the whole machine that a kubelet changes: it is given copies."""


def enter(home: str, port: int) -> None:
    """Become the keeper of new namespaces; the listening socket stays one of the old network namespace."""
    listener = socket.create_server(("127.0.0.1", port))
    os.set_inheritable(listener.fileno(), True)
    for folder in OWN_TMPFS:
        os.makedirs(folder, exist_ok=True)
    inside = [sys.executable, "-S", os.path.abspath(__file__), home, "--inside", str(listener.fileno())]
    new = ["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    os.execvp("unshare", ["unshare", *new, *inside])


def furnish(cgroup: str) -> None:
    """What a node needs of its network, its mounts and its cgroups."""
    for folder in OWN_TMPFS:
        _do("mount", "-t", "tmpfs", "tmpfs", folder)
    for name in NOT_THE_MACHINES:
        setting, copy = Path("/proc/sys") / name, Path("/run") / name.replace("/", "-")
        copy.write_text(setting.read_text())
        _do("mount", "--bind", str(copy), str(setting))
    _do("hostname", "node")
    _do("ip", "link", "set", "lo", "up")
    _do("ip", "link", "add", BRIDGE, "type", "bridge")
    _do("ip", "address", "add", ADDRESS, "dev", BRIDGE)
    _do("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for controller in CGROUPS.iterdir():
        made = controller / cgroup
        made.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            with contextlib.suppress(FileNotFoundError):
                (made / name).write_text((controller / name).read_text())


def _do(*command: str) -> None:
    subprocess.run(command, check=True)


class Init:
    """Starts the programs one after another and gathers every process that has lost its parent."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._plan = json.loads((home / "processes.json").read_text())
        self._running: dict[int, str] = {}
        self._over = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Until one of the programs ends."""
        furnish(self._plan["cgroup"])
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._gather)
        server = await asyncio.start_server(_pass_on, sock=listener)
        for entry in self._plan["processes"]:
            await _exists(entry["after"])
            with open(self._home / f"{entry['name']}.log", "ab") as log:
                process = subprocess.Popen(
                    entry["command"], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            if entry["once"]:
                continue
            self._running[process.pid] = entry["name"]
        async with server:
            await self._over.wait()

    def _gather(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid in self._running:
                    print(f"{self._running[pid]} ended: {os.waitstatus_to_exitcode(status)}", flush=True)
                    self._over.set()


async def _exists(path: str) -> None:
    while path and not os.path.exists(path):
        await asyncio.sleep(0.05)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connect the outside to the API server inside."""
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", API)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, OSError):
        writer.close()


def main() -> None:
    """See the module's first lines."""
    home, mode = sys.argv[1], sys.argv[2]
    if mode == "--inside":
        listener = socket.socket(fileno=int(sys.argv[3]))
        asyncio.run(Init(Path(home)).run(listener))
    else:
        enter(home, int(mode))


if __name__ == "__main__":
    main()
