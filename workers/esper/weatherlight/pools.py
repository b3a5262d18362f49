"""The kernel pipeline of one machine: what a run's slots could use is built, measured and certified on demand.

    request ─► work.tezzeret.compile ─► compile workers ──► library, kernels.catalog ─► dispatcher
                                                               ▲                            │
                                        benchmark workers ─────┘◄── work.urabrask.benchmark ┘

Everything is a message on the bus and a state in the library. What is unfinished when a process ends is asked for again
by the next one, from the state alone. The same workers run as processes of their own (``pooling``), and so does the
dispatcher (``serving``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from esper.kernel.children import Children
from esper.kernel.hardware import hardware_target
from esper.oona import Bus, InProcessBus
from esper.tezzeret import Builder
from esper.urabrask import Benchmarker
from esper.urza import KernelRecord, Library
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.dispatcher import FINAL, Dispatcher
from esper.weatherlight.kernels import Kernels, Prepared
from esper.weatherlight.keys import LibraryKeys, library_keys
from esper.weatherlight.patient import PatientLibrary
from esper.weatherlight.post import Post
from esper.weatherlight.quiet import Quiet
from esper.weatherlight.scratch import Scratch
from esper.weatherlight.supervisor import Status, Supervisor
from esper.weatherlight.wanted import Wanted
from esper.weatherlight.workers import Benchmarks, BenchmarkWorker, Builds, CompileWorker
from leyline.resources import KernelsSpec

__all__ = ["CACHE", "KernelService", "Prepared"]

CACHE = "cache"
FEW_CORES = 4
"""Below this many, nothing is built while something is measured."""
# A failing organ is given up on before the bus gives up on the message it was working on: four deliveries.
_BACKOFF = Backoff(first=0.2, longest=5.0, tries=3, healthy=30.0)


class KernelService(Kernels):
    """Builds, measures and certifies kernels in background processes, and says where certified ones are.

    Args:
        library: where kernels are kept.
        workdir: the library's directory: signing keys, fetched kernels and work in progress go below it.
        kernels: the manifest's ``kernels``; only the build timeout is read.
        bus: an own one in this process if not given (then closed with the service).
        keys: the library's own, made on first use, if not given.
        processes: builds at a time; measuring is always one at a time.
        builds, benchmarks: who does the work; Tezzeret and Urabrask in forked processes if not given.
        device: what kernels are built for.

    Raises:
        LibraryUnavailable: ``workdir`` can't be written.
        BadInput: the signing keys there are damaged or readable by everyone.
    """

    def __init__(
        self,
        library: Library,
        workdir: Path | str,
        kernels: KernelsSpec | None = None,
        *,
        bus: Bus | None = None,
        keys: LibraryKeys | None = None,
        processes: int | None = None,
        builds: Builds | None = None,
        benchmarks: Benchmarks | None = None,
        device: str = "cpu",
        backoff: Backoff = _BACKOFF,
    ) -> None:
        root = Path(workdir)
        signing = keys or library_keys(root)
        super().__init__(library, signing.public, root / CACHE, device=device)
        self._scratch = Scratch(root / "work")
        self._own_bus = None if bus is not None else InProcessBus()
        used: Bus = bus if bus is not None else self._own_bus  # type: ignore[assignment]
        self._children = Children()
        cores = os.cpu_count() or 1
        self._processes = processes or (1 if cores < FEW_CORES else min(4, cores // 2))
        quiet, post, patient = Quiet(enabled=cores < FEW_CORES), Post.in_process(used), PatientLibrary(library)
        timeout = float((kernels or KernelsSpec()).build_timeout_seconds)
        self._dispatcher = Dispatcher(used, post, patient, changed=self._on_change, build_seconds=timeout)
        builds = builds or Builder(self._scratch.path / "built", signing.built, self._children)
        benchmarks = benchmarks or Benchmarker(signing.validated, self.keys, self._children)
        target = hardware_target(device)
        self._compile = CompileWorker(used, post, patient, builds, quiet, hardware=target)
        self._benchmark = BenchmarkWorker(
            used, post, patient, benchmarks, quiet, self._scratch.path / "benchmark", hardware=target
        )
        self._supervisor = Supervisor(backoff)
        self._stop = threading.Event()
        self._started = False

    def status(self) -> list[Status]:
        """How the pipeline's threads are."""
        return self._supervisor.status()

    def close(self, timeout: float = 10.0) -> None:
        """Stop at once: builds and benchmarks in progress are killed and asked for again by the next run."""
        self._stop.set()
        # Told first: a thread whose child is killed then knows why, and leaves its message for the next one.
        self._supervisor.stop()
        self._children.close()
        self._supervisor.close(timeout)
        self._children.close()  # in case one was just being started
        if self._own_bus is not None:
            self._own_bus.close()
        self._scratch.close()

    def _start(self) -> None:
        with self._changed:
            if self._started:
                return
            self._started = True
        self._supervisor.start("dispatcher", self._dispatcher.run)
        for number in range(self._processes):
            self._supervisor.start(f"tezzeret-{number}", self._compile.run)
        self._supervisor.start("urabrask-0", self._benchmark.run)

    def _submit(self, wanted: Sequence[Wanted]) -> None:
        self._start()
        for want in wanted:
            self._dispatcher.advance(want.artifact_id, self._stop)

    def _settled(self, record: KernelRecord) -> bool:
        return record.state in FINAL or self._dispatcher.gave_up(record, self._stop)

    def _check(self) -> None:
        self._supervisor.check()
