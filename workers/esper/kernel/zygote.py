"""The process from which all builds and benchmarks are forked: it has imported PyTorch and never runs anything.

Three generations, so that each does one thing:

* the **zygote** imports what every job needs, then forks a keeper per request it reads from its socket;
* a **keeper** forks one worker, watches the clock, the result and its requester, kills the worker's whole process
  group if it must, and reports how it ended;
* a **worker** limits itself, then runs one function on JSON and writes JSON.

Everything between them is JSON: no pickled object crosses, and the requester's main module is not imported again (a
``multiprocessing`` fork server would run an unguarded script once more in every child). When the requester dies, its
sockets close and the rest ends by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from esper.kernel import sandbox

__all__ = ["PRELOAD", "main"]

#: Imported before the first fork. ``symbolic_shapes`` is what PyTorch imports at its first ``autograd.grad`` with a
#: gradient of the output given: three seconds of SymPy, which would otherwise be paid by every job.
PRELOAD = (
    "torch",
    "numpy",
    "torch.fx.experimental.symbolic_shapes",
    "torch.autograd.profiler",
    "esper.kernel",
    "esper.kernel.backends.eager",
    "esper.kernel.backends.pair",
)
MAX_MESSAGE = 4096
MAX_REQUEST = 8 << 20
MAX_RESULT = 4 << 20
_KILL_GRACE = 5.0


def main() -> None:
    """Serve requests from the socket whose number is the only argument until its other end closes.

    A request's message names modules to import before the fork, once for all later jobs, and carries the socket on
    which the job itself comes and its outcome goes.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the requester, who closes the socket
    for name in PRELOAD:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps keepers
    control.sendall(b"ready")
    while True:
        message, handles, _, _ = socket.recv_fds(control, MAX_MESSAGE, 1)
        if not message:
            return
        _import(json.loads(message))
        with socket.socket(fileno=handles[0]) as requester:
            if os.fork() == 0:
                control.close()
                _leave(_keep(requester))


def _import(names: Sequence[str]) -> None:
    for name in names:
        if name not in sys.modules:
            # What can't be imported is the job's to report: it will meet the same error.
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _leave(status: int = 0) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _keep(requester: socket.socket) -> int:
    """Run one request from fork to funeral and report the outcome."""
    # It outlives the zygote: somebody must end what a job has started, and that its requester has gone it sees itself.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(_read_all(requester))
    home = tempfile.mkdtemp(prefix="esper-job-")
    reader, writer = os.pipe()
    started = time.monotonic()
    worker = os.fork()
    if worker == 0:
        requester.close()
        os.close(reader)
        _work(request, home, writer)
    os.close(writer)
    result, status, killed = _watch(worker, reader, requester, started + float(request["timeout"]))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = {
        "result": result,
        "status": status,
        "killed": killed,
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "errors": _tail(os.path.join(home, "stderr")),
    }
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):  # the requester may be gone
        requester.sendall(json.dumps(outcome).encode())
    return 0


def _watch(worker: int, reader: int, requester: socket.socket, deadline: float) -> tuple[str, int, str]:
    """Collect the worker's result until it closes its end, time is up or nobody waits any more."""
    pieces, killed, size = [], "", 0
    while not killed:
        waiting = [reader, requester.fileno()]
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if reader in ready:
            piece = os.read(reader, 1 << 16)
            size += len(piece)
            if not piece:
                break
            pieces.append(piece)
            killed = "result" if size > MAX_RESULT else ""
        elif ready:
            killed = "abandoned"
        elif time.monotonic() >= deadline:
            killed = "timeout"
    if not killed:
        killed = _wait(worker, min(deadline, time.monotonic() + _KILL_GRACE))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)  # also what the worker left behind
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)  # if it died before it had a group of its own
    _, status = os.waitpid(worker, 0)
    os.close(reader)
    return b"".join(pieces).decode(errors="replace"), status, killed


def _wait(worker: int, deadline: float) -> str:
    """Give a worker that closed its end the time to exit; it stays a zombie for the caller to collect."""
    while os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= deadline:
            return "timeout"
        time.sleep(0.002)
    return ""


def _work(request: Mapping[str, Any], home: str, writer: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        sandbox.die_with_parent()
        errors = os.open(os.path.join(home, "stderr"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for handle in (1, 2):
            os.dup2(errors, handle)
        os.chdir(home)
        os.environ["TMPDIR"] = tempfile.tempdir = home
        confined = sandbox.confine(request["limits"])
        module, _, function = str(request["target"]).partition(":")
        answer = getattr(importlib.import_module(module), function)(request["arguments"], confined)
        _write_all(writer, json.dumps({"answer": answer}).encode())
        status = 0
    except MemoryError as error:
        _write_all(writer, json.dumps({"memory": str(error) or "out of memory"}).encode())
    except BaseException as error:  # noqa: BLE001 - whatever happened is the verdict
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        kind = "memory" if "allocate memory" in text or "bad_alloc" in text else "error"
        _write_all(writer, json.dumps({kind: text[:4000]}).encode())
    _leave(status)


def _write_all(handle: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        while data:
            data = data[os.write(handle, data) :]


def _read_all(source: socket.socket) -> bytes:
    """Read a request: its length in eight bytes, then the bytes. The socket stays open for the answer."""
    size = int.from_bytes(_exactly(source, 8), "big")
    if size > MAX_REQUEST:
        raise ValueError(f"a request of {size} bytes is too large")
    return _exactly(source, size)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise EOFError("the requester went away")
        data += piece
    return data


def _tail(path: str, size: int = 4000) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
