"""Run one function in a process of its own and get a verdict, whatever the function does to that process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from esper.kernel.errors import KernelBuildError

__all__ = ["Children", "Job", "Outcome"]

Ending = Literal["done", "failed", "crashed", "timeout", "memory"]

#: Environment variables that reach a child; everything else (tokens, credentials) stays here.
PASSED = (
    "PATH", "HOME", "LANG", "LC_ALL", "CXX", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR",
    "ATEN_CPU_CAPABILITY",  # part of the hardware target: a child must be of that of its process
)  # fmt: skip
PASSED_PREFIXES = ("ESPER_CACHE_", "ESPER_BUILD_", "XDG_CACHE_")
START_SECONDS = 120.0


@dataclass(frozen=True)
class Job:
    """``target`` is ``module:function``, called in the child with ``arguments`` (JSON) and what confines it.

    ``needs`` are modules the server imports before it forks, once for all jobs that name them: what takes seconds to
    import and is needed again and again. ``timeout`` in seconds does not count that.
    """

    target: str
    arguments: Mapping[str, Any]
    timeout: float
    needs: tuple[str, ...] = ()
    memory_bytes: int = 8 << 30
    file_bytes: int = 2 << 30
    nice: int = 19
    network: bool = False

    def limits(self) -> dict[str, Any]:
        """Return the limits in the child's terms; processor time is bounded in case the clock is not watched."""
        return {
            "memory_bytes": self.memory_bytes,
            "file_bytes": self.file_bytes,
            "cpu_seconds": int(self.timeout * 2) + 10,
            "open_files": 1024,
            "nice": self.nice,
            "network": self.network,
        }


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``answer`` is the function's, when it is ``done``; otherwise ``cause`` says why not."""

    ending: Ending
    cause: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: str = ""


class Children:
    """A fork server with PyTorch imported; started at the first job, restarted if it dies. Safe from several threads.

    A job's death of any kind is an :class:`Outcome`; only a server that can't be started at all is an error.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._waiting: set[socket.socket] = set()
        self._closed = threading.Event()

    def run(self, job: Job) -> Outcome:
        """Run ``job`` to its end, at most its timeout plus a few seconds.

        Raises:
            KernelBuildError: no child process can be started on this machine.
        """
        request = json.dumps(
            {"target": job.target, "arguments": job.arguments, "timeout": job.timeout, "limits": job.limits()}
        ).encode()
        outcome = self._attempt(job, request)
        if outcome.ending == "crashed" and outcome.seconds == 0 and self._server_died():
            outcome = self._attempt(job, request)  # the server was killed, not the job
        return outcome

    def _attempt(self, job: Job, request: bytes) -> Outcome:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                if not self._submit(theirs, job.needs):
                    return Outcome("crashed", "the build server was closed")
            ours.settimeout(job.timeout + START_SECONDS)
            with self._lock:
                self._waiting.add(ours)
            try:
                ours.sendall(len(request).to_bytes(8, "big") + request)
                data = b"".join(iter(lambda: ours.recv(1 << 16), b""))
            except TimeoutError:
                return Outcome("timeout", f"no answer within {job.timeout:g} s", seconds=job.timeout)
            except OSError as error:
                return Outcome("crashed", f"the build server went away ({error.strerror})")
            finally:
                with self._lock:
                    self._waiting.discard(ours)
        if not data:
            return Outcome("crashed", "the build server was killed; the machine may be out of memory")
        return _judge(json.loads(data), job)

    def close(self) -> None:
        """End the server and every job with all it has started, for good; who waits for one is told that it crashed."""
        self._closed.set()
        if not self._lock.acquire(timeout=0.2):
            # Somebody waits for a server that is just starting, which takes seconds; it has no jobs yet.
            if (server := self._server) is not None:
                server.kill()
            self._lock.acquire()
        try:
            for waiting in self._waiting:
                with contextlib.suppress(OSError):
                    waiting.shutdown(socket.SHUT_WR)  # the job's keeper sees that nobody waits
            self._stop()
        finally:
            self._lock.release()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _server_died(self) -> bool:
        with self._lock:
            return self._server is not None and self._server.poll() is not None

    def _submit(self, theirs: socket.socket, needs: Sequence[str]) -> bool:
        """Hand the server a job's socket; False once closed."""
        message = json.dumps(list(needs)).encode()
        with self._lock:
            for attempt in (1, 2):
                if self._closed.is_set():
                    return False
                try:
                    socket.send_fds(self._started(), [message], [theirs.fileno()])
                    return True
                except OSError as error:
                    self._stop()
                    if attempt == 2 and not self._closed.is_set():
                        raise KernelBuildError(
                            f"the build server does not stay up ({error}); see its output"
                        ) from error
        return False

    def _started(self) -> socket.socket:
        if self._control is not None and self._server is not None and self._server.poll() is None:
            return self._control
        self._stop()
        # One message a request, however many are sent before the server looks.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "esper.kernel.zygote", str(theirs.fileno())]
        with theirs:
            self._server = subprocess.Popen(
                command,
                env=_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.settimeout(START_SECONDS)
        self._control = ours
        ready = ours.recv(5)
        if ready != b"ready":
            raise OSError("it ended while importing PyTorch")
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout=1)  # it may be importing; jobs outlive it as long as they must
            if self._server.poll() is None:
                self._server.kill()
                self._server.wait()
            self._server = None


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "AOTI_RUNTIME_CHECK_INPUTS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _judge(report: Mapping[str, Any], job: Job) -> Outcome:
    seconds, cpu, errors = float(report["seconds"]), float(report["cpu_seconds"]), str(report["errors"])

    def outcome(ending: Ending, cause: str, answer: Mapping[str, Any] | None = None) -> Outcome:
        return Outcome(ending, cause, answer or {}, seconds, cpu, errors)

    if report["killed"] == "timeout":
        return outcome("timeout", f"did not end within {job.timeout:g} s and was killed")
    if report["killed"] == "abandoned":
        return outcome("crashed", "was ended because nobody waited for it any more")
    if report["killed"]:
        return outcome("failed", "its answer was too large")
    status = int(report["status"])
    try:
        said = json.loads(report["result"]) if report["result"] else {}
    except ValueError:
        said = {}
    if "memory" in said:
        return outcome("memory", f"ran out of its {job.memory_bytes >> 20} MiB of memory: {said['memory']}")
    if "error" in said:
        return outcome("failed", str(said["error"]))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return outcome("memory", "was killed from outside, as happens when the machine runs out of memory")
        if number == signal.SIGXCPU:
            return outcome("timeout", "used up its processor time")
        return outcome("crashed", f"crashed with {signal.Signals(number).name}")
    if "answer" in said and isinstance(said["answer"], dict):
        return outcome("done", "", said["answer"])
    return outcome("crashed", f"ended with status {os.waitstatus_to_exitcode(status)} and no answer")
