"""The kernel pipeline in one process with quick hands: a library, a bus, a dispatcher, workers, and runs that ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message as Payload

import elsewhere
from artifacts import VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.oona import Bus, InProcessBus, Outcome
from esper.oona.keyfiles import TrustedFolder, load_signer, make_key
from esper.urza import SqlLibrary, State, UnknownArtifact
from esper.weatherlight.dispatcher import Dispatcher
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post, interface_to_wire, strategy_to_wire
from esper.weatherlight.quiet import Quiet
from esper.weatherlight.workers import BenchmarkWorker, CompileWorker
from hands import AwayLibrary, QuickBenchmarks, QuickBuilds
from leyline.identity import ArtifactId
from leyline.interface import Interface
from leyline.topics import PREFETCH_ERROR, PREFETCH_READY, TOPICS, pool_subscription
from leyline.v1 import kernels_pb2 as wire

PATIENCE = 60.0
Run = Callable[[threading.Event], None]


def identity_of(
    name: str, strategy: str = "fast", interface: Interface = VECTOR, hardware: str | None = None
) -> str:  # fmt: skip
    digest = CATALOGUE[name].ir.digest()
    return str(ArtifactId.make(digest, interface, hardware or hardware_target(), strategy, toolchain_hash()))


class Pipeline:
    """A library, a bus, a dispatcher and, once started, workers."""

    def __init__(self, folder: Path, bus: Bus | None = None) -> None:
        make_key(folder, "all", ["urza", "tezzeret", "urabrask", "weatherlight", "tamiyo"])
        make_key(folder / "elsewhere", "thief", ["urza", "tezzeret", "weatherlight"])
        self.sql = SqlLibrary.open(folder / "library")
        self.library = AwayLibrary(self.sql)
        self.bus, self.folder = bus or InProcessBus(), folder
        ring = TrustedFolder(folder / "trusted")
        self.post = Post(self.bus, load_signer(folder / "all.pem"), ring)
        self.thief = Post(self.bus, load_signer(folder / "elsewhere" / "thief.pem"), ring)
        self.builds, self.benchmarks = QuickBuilds(folder / "built"), QuickBenchmarks()
        self.stop, self.threads = threading.Event(), list[threading.Thread]()
        self.decided: list[str] = []
        self.answers = {
            topic: self.post.inbox(self.bus.subscribe(topic, "run-1", key="run-1"))
            for topic in (PREFETCH_READY, PREFETCH_ERROR)
        }
        for name in ("low_rank", "bottleneck"):
            self.sql.register_blueprint(name, CATALOGUE[name].ir, 0.2)

    def dispatcher(self, **more: Any) -> Dispatcher:
        patient = PatientLibrary(self.library, 30.0)  # type: ignore[arg-type]
        more = {"letters_seconds": 0.05} | more
        return Dispatcher(self.bus, self.post, patient, changed=self.decided.append, **more)

    def start(self, dispatcher: Dispatcher | None = None, *, workers: bool = True) -> Dispatcher:
        started = dispatcher or self.dispatcher()
        self._begin(started.run, started.run_requests, started.run_reports)
        if workers:
            self.work()
        return started

    def work(self) -> None:
        """Start a worker of each pool."""
        self._begin(*self.workers(self.builds, self.benchmarks))

    def work_for(self, hardware: str) -> tuple[QuickBuilds, QuickBenchmarks]:
        """Start a worker of each pool on other hardware, with hands of their own; see ``elsewhere``."""
        builds, benchmarks = QuickBuilds(self.folder / f"built-{hardware}"), QuickBenchmarks()
        self._begin(*(elsewhere.on(hardware, run) for run in self.workers(builds, benchmarks, hardware=hardware)))
        return builds, benchmarks

    def workers(self, builds: QuickBuilds, benchmarks: QuickBenchmarks, **more: Any) -> list[Run]:
        patient = PatientLibrary(self.library, 30.0)  # type: ignore[arg-type]
        scratch = self.folder / f"scratch-{len(self.threads)}"
        return [
            CompileWorker(self.bus, self.post, patient, builds, Quiet(), **more).run,
            BenchmarkWorker(self.bus, self.post, patient, benchmarks, Quiet(), scratch, **more).run,
        ]

    def _begin(self, *works: Run) -> None:
        for work in works:
            self.threads.append(threading.Thread(target=work, args=(self.stop,), daemon=True))
            self.threads[-1].start()

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        self.sql.close()

    def ask(
        self, name: str, strategy: str = "fast", *, post: Post | None = None, target: str | None = None, **change: Any
    ) -> str:  # fmt: skip
        """A run asks for a kernel, for its own hardware or another target."""
        identity = identity_of(name, strategy, hardware=target)
        request = wire.KernelPrefetchRequest(
            **{
                "run": "run-1", "kernel_artifact_id": identity, "blueprint": name,
                "interface": interface_to_wire(VECTOR), "strategy": strategy_to_wire(strategy),
                "hardware": target or hardware_target(),
            } | change
        )  # fmt: skip
        (post or self.post).send(request, "weatherlight", identity)
        return identity

    def answer(self, topic: str = PREFETCH_READY) -> Any:
        """What the run is told next."""
        heard: list[Payload] = []
        taken = self.answers[topic].take(lambda payload, *_: heard.append(payload), PATIENCE)
        assert taken is Outcome.HANDLED
        return heard[0]

    def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, "did not happen"
            time.sleep(0.01)

    def state(self, identity: str) -> State | None:
        """Of an artifact; None while it is not in the library."""
        try:
            return self.sql.record(identity).state
        except UnknownArtifact:
            return None

    def sent(self, topic: str) -> int:
        """Messages waiting on a queue."""
        target = hardware_target()
        with self.bus.subscribe(topic, pool_subscription(TOPICS[topic], target), hardware=target):
            return sum(each.ready for each in self.bus.backlog() if each.topic == topic)
