"""The kernel pipeline of one machine: what a run's slots could use is built, measured and certified on demand.

    request ─► work.tezzeret.compile ─► compile workers ──► kernels.catalog ─► librarian ─► library
                                                                  ▲              │
                                        benchmark workers ◄── work.urabrask.benchmark

Everything is a message on the bus and a state in the library. What is unfinished when a process ends is asked for again
by the next one, from the state alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from esper.errors import Interrupted
from esper.kernel.children import Children
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.kernel.signing import PublicKeys
from esper.oona import Bus, InProcessBus
from esper.tezzeret import Builder
from esper.urabrask import Benchmarker
from esper.urza import KernelQuery, KernelRecord, Library, State
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.keys import LibraryKeys, library_keys
from esper.weatherlight.librarian import FINAL, Librarian
from esper.weatherlight.post import Post, interface_to_wire, strategy_to_wire
from esper.weatherlight.scratch import Scratch
from esper.weatherlight.supervisor import Status, Supervisor
from esper.weatherlight.wanted import Wanted, designs, portfolio, unavailable
from esper.weatherlight.workers import (
    Benchmarks,
    BenchmarkWorker,
    Builds,
    CompileWorker,
    Context,
    Quiet,
    send_patiently,
)
from leyline.interface import Interface
from leyline.resources import KernelsSpec
from leyline.v1 import kernels_pb2 as wire

CACHE = "cache"
BENCHMARK_SECONDS = 120.0
"""How long checking and measuring one artifact may take."""
RECHECK_SECONDS = 2.0
"""How often the library itself is looked at while waiting: another process may have brought the verdict."""
FEW_CORES = 4
"""Below this many, nothing is built while something is measured."""
# A failing organ is given up on before the bus gives up on the message it was working on: four deliveries.
_BACKOFF = Backoff(first=0.2, longest=5.0, tries=3, healthy=30.0)

ProgressCallback = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Prepared:
    """What became of a portfolio.

    ``artifacts`` holds, for each artifact with an answer, what an ``events.jsonl`` line about a kernel holds (kernel,
    blueprint, strategy, state, ratio, interval, latency_ms, memory_mb, tags, cause). ``outstanding`` are the ids still
    on their way. ``unavailable`` gives, for each strategy that can't be built here, the reason once.
    """

    artifacts: tuple[Mapping[str, Any], ...] = ()
    outstanding: tuple[str, ...] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


class KernelService:
    """Builds, measures and certifies kernels in background processes, and says where certified ones are.

    A context manager. It is Kasmina's kernel source: ``keys`` and ``path``.

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
        self._library, self._device = library, device
        self._timeout = float((kernels or KernelsSpec()).build_timeout_seconds)
        self._root = Path(workdir)
        self._signing = keys or library_keys(self._root)
        self.keys: PublicKeys = self._signing.public
        self._scratch = Scratch(self._root / "work")
        self._own_bus = None if bus is not None else InProcessBus()
        self._bus: Bus = bus if bus is not None else self._own_bus  # type: ignore[assignment]
        self._children = Children()
        cores = os.cpu_count() or 1
        self._processes = processes or (1 if cores < FEW_CORES else min(4, cores // 2))
        quiet = Quiet(enabled=cores < FEW_CORES)
        post = Post(self._bus)
        builds = builds or Builder(self._scratch.path / "built", self._signing.built, self._children)
        benchmarks = benchmarks or Benchmarker(self._signing.validated, self.keys, self._children)
        self._post = post
        self._changed = threading.Condition()
        self._news: set[str] = set()
        self._wanted: dict[str, Wanted] = {}
        self._validated: set[str] = set()
        self._told: set[str] = set()
        self._paths: dict[str, Path] = {}
        self._fetching: dict[str, threading.Lock] = {}
        self._librarian = Librarian(library, self._bus, post, self._scratch.path, BENCHMARK_SECONDS, self._on_change)
        self._compile = CompileWorker(self._bus, post, builds, quiet)
        self._benchmark = BenchmarkWorker(self._bus, post, benchmarks, quiet, self._context)
        self._supervisor = Supervisor(backoff)
        self._stop = threading.Event()
        self._started = False

    def prepare(
        self,
        interfaces: Iterable[Interface],
        blueprints: Sequence[str],
        strategies: Sequence[str],
        on_progress: ProgressCallback | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prepared:
        """Ask for a portfolio and wait until every artifact of it has its verdict.

        Args:
            interfaces: the slots'.
            blueprints: names in the catalogue or the library.
            strategies: ``fast``, ``standard``, …; ``fast`` is always there, the others are measured against it.
            on_progress: told how many are done, of how many, and the latest in words.
            stop: asked now and then whether to give up.

        Raises:
            BadInput: an unknown blueprint.
            Interrupted: ``stop`` said so.
            OrganFailed: a part of the pipeline failed too often; the cause says why.
            LibraryError: the library can't be used.
        """
        asked = self.request(interfaces, blueprints, strategies)
        waiting = set(asked.outstanding)
        done = list(asked.artifacts)
        total = len(waiting) + len(done)
        progress = on_progress or (lambda *_: None)
        if done:
            progress(len(done), total, "certified before" if not waiting else "known already")
        while waiting:
            for artifact_id in sorted(self._await_news(waiting)):
                record = self._library.record(artifact_id)
                if not self._settled(record):
                    continue
                waiting.discard(artifact_id)
                done.append(_event(record))
                progress(len(done), total, f"{record.blueprint} {record.strategy}: {record.state.value.lower()}")
            self._supervisor.check()
            if stop is not None and stop():
                raise Interrupted(
                    f"interrupted while {len(waiting)} kernels were being prepared; run it again to go on"
                )
        return Prepared(tuple(sorted(done, key=lambda each: str(each["kernel"]))), (), asked.unavailable)

    def request(
        self, interfaces: Iterable[Interface], blueprints: Sequence[str], strategies: Sequence[str]
    ) -> Prepared:
        """Ask for a portfolio and return at once, with the verdicts there are; see ``arrivals`` for the others.

        Raises:
            BadInput, LibraryError: as for ``prepare``.
        """
        before = set(self._wanted)
        asked = self.enter(interfaces, blueprints, strategies)
        for artifact_id in asked.outstanding:
            if artifact_id not in before:
                self._start()
                self._submit(self._wanted[artifact_id], self._library.record(artifact_id).state)
        return asked

    def enter(self, interfaces: Iterable[Interface], blueprints: Sequence[str], strategies: Sequence[str]) -> Prepared:
        """Enter a portfolio in the library without making any of it; returns the verdicts there are.

        Raises:
            BadInput, LibraryError: as for ``prepare``.
        """
        missing = unavailable(strategies)
        known = designs(blueprints, self._library)
        self._register(known)
        irs = {name: ir for name, (ir, _) in known.items()}
        able = [strategy for strategy in strategies if strategy not in missing]
        hardware, toolchain = hardware_target(self._device), toolchain_hash()
        done: list[Mapping[str, Any]] = []
        outstanding: list[str] = []
        for want in portfolio(irs, list(interfaces), able, self._device):
            state = self._library.begin(
                want.artifact_id, want.blueprint, want.interface, want.strategy, hardware, toolchain
            )
            self._librarian.expect(want.artifact_id, want.baseline)
            with self._changed:
                self._wanted[want.artifact_id] = want
                if state is State.VALIDATED:
                    self._validated.add(want.artifact_id)
            if state in FINAL:
                done.append(_event(self._library.record(want.artifact_id)))
            else:
                outstanding.append(want.artifact_id)
        return Prepared(tuple(done), tuple(outstanding), missing)

    def arrivals(self) -> list[str]:
        """Ids of requested artifacts that were certified since the last call, sorted.

        Raises:
            LibraryError: the library can't be asked.
        """
        for artifact_id in sorted(set(self._wanted) - self._validated):
            if self._library.record(artifact_id).state is State.VALIDATED:
                self._validated.add(artifact_id)
        new = sorted(self._validated - self._told)
        self._told.update(new)
        return new

    def path(self, artifact_id: str) -> Path:
        """The local directory of a certified artifact, fetched and verified on first use.

        Raises:
            UnknownArtifact, BlobMissing, BlobCorrupt, LibraryUnavailable: it can't be had.
        """
        with self._changed:
            lock = self._fetching.setdefault(artifact_id, threading.Lock())
        with lock:
            known = self._paths.get(artifact_id)
            if known is None or not known.is_dir():
                known = self._library.fetch(artifact_id, self._root / CACHE)
                self._paths[artifact_id] = known
            return known

    def status(self) -> list[Status]:
        """How the pipeline's threads are."""
        return self._supervisor.status()

    def close(self, timeout: float = 10.0) -> None:
        """Stop at once: builds and benchmarks in progress are killed and asked for again by the next run."""
        self._stop.set()
        # A killed child makes its thread look up, see that it is to stop, and leave its message for the next one.
        self._children.close()
        self._supervisor.close(timeout)
        self._children.close()  # in case one was just being started
        if self._own_bus is not None:
            self._own_bus.close()
        self._scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> None:
        with self._changed:
            if self._started:
                return
            self._started = True
        self._supervisor.start("librarian", self._librarian.run)
        for number in range(self._processes):
            self._supervisor.start(f"tezzeret-{number}", self._compile.run)
        self._supervisor.start("urabrask-0", self._benchmark.run)

    def _register(self, known: Mapping[str, Any]) -> None:
        stored = {record.name: record for record in self._library.blueprints()}
        for name, (ir, risk) in known.items():
            record = stored.get(name)
            if record is None or record.digest != ir.digest() or record.risk != risk:
                self._library.register_blueprint(name, ir, risk)

    def _submit(self, want: Wanted, state: State) -> None:
        if state is not State.PENDING_BUILD:
            self._librarian.send_on(want.artifact_id, self._stop)
            return
        request = wire.KernelCompileRequest(
            kernel_artifact_id=want.artifact_id,
            blueprint=want.blueprint,
            blueprint_ir=want.ir.to_json(),
            interface=interface_to_wire(want.interface),
            strategy=strategy_to_wire(want.strategy),
            hardware=hardware_target(self._device),
            toolchain=toolchain_hash(),
            timeout_seconds=max(1, round(self._timeout)),
        )
        send_patiently(lambda: self._post.send(request, "weatherlight", want.artifact_id), self._stop)

    def _context(self, artifact_id: str) -> Context:
        """What the library knows that a benchmark needs."""
        record, want = self._library.record(artifact_id), self._wanted[artifact_id]
        offered = self._library.query(KernelQuery(want.interface, record.hardware, toolchain=record.toolchain))
        return Context(
            prior_risk=self._library.blueprint(record.blueprint_digest).risk,
            peers=[peer.report for peer in offered if peer.artifact_id != artifact_id],
            previous=record.tags,
        )

    def _on_change(self, artifact_id: str) -> None:
        with self._changed:
            self._news.add(artifact_id)
            self._changed.notify_all()

    def _await_news(self, waiting: set[str]) -> set[str]:
        """Wait until something may have changed; returns which of ``waiting`` to look at."""
        deadline = time.monotonic() + RECHECK_SECONDS
        with self._changed:
            while not self._news & waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    return set(waiting)
                # Short turns, so that a request to stop and a failed organ are seen soon.
                self._changed.wait(min(left, 0.25))
            news, self._news = self._news & waiting, self._news - waiting
            return news

    def _settled(self, record: KernelRecord) -> bool:
        return record.state in FINAL or self._librarian.gave_up(record.artifact_id)


def _event(record: KernelRecord) -> Mapping[str, Any]:
    low, high = record.report.get("ratio_low"), record.report.get("ratio_high")
    return {
        "kernel": record.artifact_id,
        "blueprint": record.blueprint,
        "strategy": record.strategy,
        "state": record.state.value,
        "ratio": record.ratio,
        "interval": [low, high] if low is not None and high is not None else None,
        "latency_ms": record.latency_ms,
        "memory_mb": record.memory_mb,
        "tags": list(record.tags),
        "cause": record.cause if record.state is not State.VALIDATED else "",
    }
