"""The kernel pipeline in a process of its own, at the lowest priority, beside a run that trains.

In the trainer's own process its threads would take the interpreter's lock out of training steps. What the two share is
the library: the run looks there between epochs for what was certified. The process ends when everything it was asked
for has its verdict, when it is told to, or when the trainer is gone, however that ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from esper.errors import EsperError, Interrupted, RunFailed
from esper.urza import SqlLibrary
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.pools import KernelService
from esper.weatherlight.supervisor import Status, Supervisor
from leyline.interface import Interface
from leyline.resources import KernelsSpec

LOWEST = 19
"""Nice value: the process gets what the training leaves, and where the system can tell, what everybody leaves."""
GRACE_SECONDS = 10.0
"""How long the process may take to end when told to; what is unfinished is asked for again by the next run."""
LAST_WORDS = 2000
"""Characters of a failed process's messages that are told."""
_BACKOFF = Backoff(first=0.5, longest=10.0, tries=3, healthy=60.0)


class PipelineFailed(RunFailed):
    """The kernel pipeline's process ended with an error."""


class KernelProcess:
    """Asks for kernels and has them made in another process, which is started again when it fails.

    A context manager.

    Args:
        library_root: the library's directory.
        kernels: the manifest's ``kernels``; only the build timeout is read.
        tell: told about failures, in words.
        nice: of the process, 0 to 19; the lowest priority if not given.
    """

    def __init__(
        self,
        library_root: Path,
        kernels: KernelsSpec,
        tell: Callable[[str], object],
        *,
        nice: int | None = None,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._root, self._kernels, self._tell = library_root, kernels, tell
        self._nice = LOWEST if nice is None else nice
        self._supervisor = Supervisor(backoff)
        self.pid: int | None = None
        """Of the process, while it runs."""

    def request(self, interfaces: Iterable[Interface], blueprints: Sequence[str], strategies: Sequence[str]) -> None:
        """Start the process with these kernels to make; once per object."""
        order = {
            "library": str(self._root),
            "nice": self._nice,
            "build_timeout_seconds": self._kernels.build_timeout_seconds,
            "interfaces": [interface.to_dict() for interface in interfaces],
            "blueprints": list(blueprints),
            "strategies": list(strategies),
        }
        self._supervisor.start("kernel-process", lambda stop: self._work(order, stop))

    def status(self) -> list[Status]:
        """How the process is; empty before the request."""
        return self._supervisor.status()

    def close(self) -> None:
        """End the process."""
        self._supervisor.close(2 * GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _work(self, order: dict[str, Any], stop: threading.Event) -> None:
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                [sys.executable, "-m", "esper.weatherlight.beside"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True,
            )  # fmt: skip
            self.pid = process.pid
            try:
                code = _attend(process, json.dumps(order).encode() + b"\n", stop)
            finally:
                self.pid = None
            if code != 0 and not stop.is_set():
                messages.seek(0)
                words = messages.read().decode(errors="replace").strip()[-LAST_WORDS:]
                ending = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
                self._tell(f"the kernel process {ending}: {words.rpartition(chr(10))[2] or 'it left no message'}")
                raise PipelineFailed(f"the kernel process {ending}: {words}")


def _attend(process: subprocess.Popen[bytes], order: bytes, stop: threading.Event) -> int:
    """Give the process its order and wait for its end; an open pipe is what keeps it going."""
    assert process.stdin is not None
    try:
        process.stdin.write(order)
        process.stdin.flush()
        while process.poll() is None and not stop.wait(0.2):
            continue
    except BrokenPipeError:
        return process.wait()  # it died before it read its order; its status and messages say why
    try:
        process.stdin.close()
    except BrokenPipeError:
        return process.wait()
    try:
        return process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def leave_a_core() -> None:
    """Keep this process and its children off one core, where there are several and the system allows it.

    Even at the lowest priority a process gets a time slice now and then, which a training step on that core waits for;
    on a core of its own none does.
    """
    if hasattr(os, "sched_setaffinity"):
        first, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others or [first])


def only_when_idle() -> None:
    """Run this process and its children only on cores that would be idle, where the system has such a class.

    A process of nice 19 is still given slices of its own, and one that wakes beside it may have to wait for their end:
    a training step was seen to wait 20 ms and more. This class (Linux's ``SCHED_IDLE``) gives way at once. A container
    may forbid it: then nice 19 holds, and only the length of pauses differs.
    """
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except PermissionError as error:
            print(f"kernels are made at nice {LOWEST}, not when idle: {error}", file=sys.stderr)


def main() -> int:
    """The process itself: reads its order from standard input and goes on until that is closed."""
    order = json.loads(sys.stdin.readline())
    os.nice(order["nice"])
    if order["nice"] == LOWEST:
        only_when_idle()
    leave_a_core()
    told = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        told.set()

    threading.Thread(target=listen, name="esper-parent", daemon=True).start()
    library_root = Path(order["library"])
    kernels = KernelsSpec(build_timeout_seconds=order["build_timeout_seconds"])
    interfaces = [Interface.from_dict(each) for each in order["interfaces"]]
    library = SqlLibrary.open(library_root)
    try:
        with KernelService(library, library_root, kernels) as service:
            service.prepare(interfaces, order["blueprints"], order["strategies"], stop=told.is_set)
    except Interrupted:
        return 0
    except EsperError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        library.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
