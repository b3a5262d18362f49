"""The dispatcher as a process of its own, and what it has in common with the pools' workers.

They share nothing but the broker and the library's service, and are the same code as the pipeline of one machine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import structlog

from esper.process import Process
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.consuming import Activity
from esper.weatherlight.counting import Counted
from esper.weatherlight.dispatcher import Dispatcher
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post
from esper.weatherlight.settings import DispatchSettings
from esper.weatherlight.supervisor import Supervisor, Work

_LOG = structlog.get_logger("esper.weatherlight")

TURN_SECONDS = 0.25
# A failing thread is given up on before the bus gives up on the message it was working on: four deliveries.
_BACKOFF = Backoff(first=0.5, longest=10.0, tries=3, healthy=60.0)


def dispatch(settings: DispatchSettings) -> None:
    """Send artifacts on their way and tell what became of them, until told to stop.

    Raises:
        PartsMissing: something it needs can't be used.
        OrganFailed: a part of it failed too often.
    """
    with Process(settings, "urza", roles=("admin",)) as process:
        process.connect()
        served = Served(process)
        dispatcher = Dispatcher(
            process.bus, served.post, served.library,
            build_seconds=settings.build_timeout_seconds, benchmark_seconds=settings.benchmark_timeout_seconds,
            letters_seconds=settings.letters_seconds, round_seconds=settings.round_seconds,
            rest_seconds=settings.noisy_rest_seconds,
            sweep_seconds=settings.sweep_interval_seconds, grace_seconds=settings.sweep_grace_seconds,
            tally=Counted(process.registry), around=process.handling,
        )  # fmt: skip

        def resume(stop: threading.Event) -> None:
            _LOG.info("resumed", unfinished=dispatcher.resume(stop))

        served.run(
            {
                "catalog": dispatcher.run, "requests": dispatcher.run_requests, "reports": dispatcher.run_reports,
                "resume": resume,
            }
        )  # fmt: skip


class Served:
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
