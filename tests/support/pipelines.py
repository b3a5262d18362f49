"""The kernel pipeline in one process with quick hands: a library, a bus, a dispatcher, workers, and runs that ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message as Payload

from artifacts import VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.oona import InProcessBus, Outcome
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
from leyline.topics import COMPILE, PREFETCH_ERROR, PREFETCH_READY
from leyline.v1 import kernels_pb2 as wire

PATIENCE = 60.0


def identity_of(name: str, strategy: str = "fast", interface: Interface = VECTOR) -> str:
    digest = CATALOGUE[name].ir.digest()
    return str(ArtifactId.make(digest, interface, hardware_target(), strategy, toolchain_hash()))


class Pipeline:
    """A library, a bus, a dispatcher and, once started, workers."""

    def __init__(self, folder: Path) -> None:
        make_key(folder, "all", ["urza", "tezzeret", "urabrask", "weatherlight", "tamiyo"])
        make_key(folder / "elsewhere", "thief", ["urza", "tezzeret", "weatherlight"])
        self.sql = SqlLibrary.open(folder / "library")
        self.library = AwayLibrary(self.sql)
        self.bus, self.folder = InProcessBus(), folder
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
        patient = PatientLibrary(self.library, 30.0)  # type: ignore[arg-type]
        self._begin(
            CompileWorker(self.bus, self.post, patient, self.builds, Quiet()).run,
            BenchmarkWorker(self.bus, self.post, patient, self.benchmarks, Quiet(), self.folder / "scratch").run,
        )

    def _begin(self, *works: Callable[[threading.Event], None]) -> None:
        for work in works:
            self.threads.append(threading.Thread(target=work, args=(self.stop,), daemon=True))
            self.threads[-1].start()

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        self.sql.close()

    def ask(self, name: str, strategy: str = "fast", *, post: Post | None = None, **change: Any) -> str:
        """A run asks for a kernel."""
        identity = identity_of(name, strategy)
        request = wire.KernelPrefetchRequest(
            **{
                "run": "run-1", "kernel_artifact_id": identity, "blueprint": name,
                "interface": interface_to_wire(VECTOR), "strategy": strategy_to_wire(strategy),
                "hardware": hardware_target(),
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
        with self.bus.subscribe(topic, "tezzeret" if topic == COMPILE else "urabrask"):
            return sum(each.ready for each in self.bus.backlog() if each.topic == topic)
