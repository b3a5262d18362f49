"""The kernel pipeline as processes of their own: compile workers, benchmark workers and the dispatcher.

They share nothing but the broker and the library's service, and are the same code as the pipeline of one machine.
A worker that is told to stop finishes the message in hand; one that is killed leaves it to the next.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Generic, TypeVar

import structlog

from esper.kernel.children import Children
from esper.kernel.signing import PublicKeys, SigningKey
from esper.oona import BreakerState
from esper.process import NotReady, Process, writable
from esper.tezzeret import Builder
from esper.urabrask import Benchmarker
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.consuming import Activity
from esper.weatherlight.counting import Counted
from esper.weatherlight.dispatcher import Dispatcher
from esper.weatherlight.keys import load_public_keys
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post
from esper.weatherlight.scratch import Scratch
from esper.weatherlight.settings import DispatchSettings, PoolSettings, TezzeretSettings, UrabraskSettings
from esper.weatherlight.supervisor import Supervisor, Work
from esper.weatherlight.workers import BenchmarkWorker, CompileWorker, Quiet

_LOG = structlog.get_logger("esper.weatherlight")
T = TypeVar("T")

TURN_SECONDS = 0.25
# A failing thread is given up on before the bus gives up on the message it was working on: four deliveries.
_BACKOFF = Backoff(first=0.5, longest=10.0, tries=3, healthy=60.0)


def work_tezzeret(settings: TezzeretSettings) -> None:
    """Build what is asked for, until told to stop or idle for long enough.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    key = _Loaded(lambda: SigningKey.load(settings.signing_key_file))
    parts = [("workdir", lambda: writable(settings.workdir)), ("signing_key_file", key.load)]
    with Process(settings, "tezzeret", roles=("worker", "admin"), parts=parts) as process, ExitStack() as stack:
        process.connect()
        pool = _Pool(process, settings, stack)
        builder = Builder(pool.scratch.path / "built", key.value, pool.children)
        worker = CompileWorker(process.bus, pool.post, pool.library, builder, Quiet(enabled=False), **pool.told)
        pool.run({f"tezzeret-{number}": worker.run for number in range(settings.processes)}, settings.idle_exit_seconds)


def work_urabrask(settings: UrabraskSettings) -> None:
    """Check and measure what is asked for, one at a time, until told to stop or idle for long enough.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    key = _Loaded(lambda: SigningKey.load(settings.signing_key_file))
    keys: _Loaded[PublicKeys] = _Loaded(lambda: load_public_keys(settings.public_keys_file))
    parts = [
        ("workdir", lambda: writable(settings.workdir)),
        ("signing_key_file", key.load),
        ("public_keys_file", keys.load),
    ]
    with Process(settings, "urabrask", roles=("worker", "admin"), parts=parts) as process, ExitStack() as stack:
        process.connect()
        pool = _Pool(process, settings, stack)
        benchmarker = Benchmarker(key.value, keys.value, pool.children)
        worker = BenchmarkWorker(
            process.bus, pool.post, pool.library, benchmarker, Quiet(enabled=False), pool.scratch.path / "benchmark",
            **pool.told,
        )  # fmt: skip
        pool.run({"urabrask-0": worker.run}, settings.idle_exit_seconds)


def dispatch(settings: DispatchSettings) -> None:
    """Send artifacts on their way and tell what became of them, until told to stop.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    with Process(settings, "urza", roles=("admin",)) as process:
        process.connect()
        served = _Served(process)
        dispatcher = Dispatcher(
            process.bus, served.post, served.library,
            build_seconds=settings.build_timeout_seconds, benchmark_seconds=settings.benchmark_timeout_seconds,
            letters_seconds=settings.letters_seconds, sweep_seconds=settings.sweep_interval_seconds,
            grace_seconds=settings.sweep_grace_seconds, tally=Counted(process.registry), around=process.handling,
        )  # fmt: skip

        def resume(stop: threading.Event) -> None:
            _LOG.info("resumed", unfinished=dispatcher.resume(stop))

        served.run(
            {
                "catalog": dispatcher.run, "requests": dispatcher.run_requests, "reports": dispatcher.run_reports,
                "resume": resume,
            }
        )  # fmt: skip


class _Served:
    """A connected process with supervised threads."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.post = Post(
            process.bus, process.signer, process.trusted, instance=process.producer.partition("/")[2]
        )  # fmt: skip
        self.library = PatientLibrary(process.library, math.inf)
        self.activity = Activity()
        self._supervisor = Supervisor(_BACKOFF)
        process.breakers.append(self.library.breaker)
        process.live["threads"] = self._supervisor.check
        process.ready["library"] = self._library_there

    def run(self, threads: Mapping[str, Work], idle_exit_seconds: float = 0.0) -> None:
        """Run until told to stop, then until what is in hand is done."""
        for name, work in threads.items():
            self._supervisor.start(name, work)
        stopping = self.process.stopping
        try:
            while not stopping.event.wait(TURN_SECONDS):
                self._supervisor.check()
                if idle_exit_seconds and self.activity.idle_seconds >= idle_exit_seconds:
                    _LOG.info("idle", seconds=round(self.activity.idle_seconds, 1))
                    stopping.stop()
        finally:
            self._supervisor.stop()
        _LOG.info("stopping", busy=self.activity.idle_seconds == 0.0)
        # However long that takes: whoever can't wait sends a second signal.
        self._supervisor.close(threading.TIMEOUT_MAX / 2)
        self._supervisor.check()

    def _library_there(self) -> None:
        if self.library.breaker.state is not BreakerState.CLOSED:
            raise NotReady("the library does not answer")


class _Pool(_Served):
    """The same with helper processes and a scratch directory, which end with it."""

    def __init__(self, process: Process, settings: PoolSettings, stack: ExitStack) -> None:
        super().__init__(process)
        self.scratch = Scratch(settings.workdir)
        stack.callback(self.scratch.close)
        # Its server is a fresh program, not a fork of this process, so it may start while the bus has threads.
        self.children = Children()
        stack.callback(self.children.close)
        self.told = {
            # Never set: work in hand is finished.
            "abandon": threading.Event(), "tally": Counted(process.registry), "activity": self.activity,
            "around": process.handling,
        }  # fmt: skip


class _Loaded(Generic[T]):
    """Something that is loaded when everything is tried, and used afterwards."""

    value: T

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read

    def load(self) -> None:
        self.value = self._read()
