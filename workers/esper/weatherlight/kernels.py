"""Asking for a portfolio of kernels and finding out what became of it, whoever makes them.

The library is what is believed. Whoever makes kernels only says that it is worth looking there.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from esper.errors import Interrupted, RunFailed
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.kernel.signing import PublicKeys
from esper.urza import KernelRecord, Library, State
from esper.weatherlight.dispatcher import FINAL
from esper.weatherlight.wanted import Wanted, designs, portfolio, unavailable
from leyline.interface import Interface

TURN_SECONDS = 0.25
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


class Kernels(ABC):
    """Kernels by portfolio; a subclass has them made. A context manager, and Kasmina's kernel source.

    Args:
        library: where kernels are kept.
        keys: whose signatures on them are taken.
        cache: directory that fetched kernels are put in.
        device: what kernels are built for.
        recheck_seconds: how often the library itself is looked at while waiting.
    """

    def __init__(
        self, library: Library, keys: PublicKeys, cache: Path, *, device: str = "cpu", recheck_seconds: float = 2.0
    ) -> None:
        self._library, self.keys, self._cache, self._device = library, keys, cache, device
        self._recheck, self._look_at = recheck_seconds, 0.0
        self._changed = threading.Condition()
        self._news: set[str] = set()
        self._wanted: dict[str, Wanted] = {}
        self._validated: set[str] = set()
        self._told: set[str] = set()
        self._paths: dict[str, Path] = {}
        self._fetching: dict[str, threading.Lock] = {}

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
                record = self._look(artifact_id)
                if record is None:
                    continue
                waiting.discard(artifact_id)
                done.append(event(record))
                progress(len(done), total, f"{record.blueprint} {record.strategy}: {record.state.value.lower()}")
            self._check()
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
        new = [artifact_id for artifact_id in asked.outstanding if artifact_id not in before]
        if new:
            self._submit([self._wanted[artifact_id] for artifact_id in new])
        return asked

    def enter(self, interfaces: Iterable[Interface], blueprints: Sequence[str], strategies: Sequence[str]) -> Prepared:
        """Enter a portfolio in the library without making any of it; returns the verdicts there are.

        Raises:
            BadInput, LibraryError: as for ``prepare``.
        """
        missing = self._unavailable(strategies)
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
            with self._changed:
                self._wanted[want.artifact_id] = want
                if state is State.VALIDATED:
                    self._validated.add(want.artifact_id)
            if state in FINAL:
                done.append(event(self._library.record(want.artifact_id)))
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
                known = self._library.fetch(artifact_id, self._cache)
                self._paths[artifact_id] = known
            return known

    @abstractmethod
    def close(self) -> None:
        """Stop; what is unfinished is asked for again by the next run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def _submit(self, wanted: Sequence[Wanted]) -> None:
        """Have these made."""

    @abstractmethod
    def _settled(self, record: KernelRecord) -> bool:
        """Whether an artifact's state is its verdict."""

    def _check(self) -> None:  # noqa: B027 - most have nothing that can fail
        """Raise when whoever makes kernels has failed for good."""

    def _unavailable(self, strategies: Sequence[str]) -> Mapping[str, str]:
        """Strategies that nobody who is asked can build, each with the reason."""
        return unavailable(strategies)

    def _register(self, known: Mapping[str, Any]) -> None:
        stored = {record.name: record for record in self._library.blueprints()}
        for name, (ir, risk) in known.items():
            record = stored.get(name)
            if record is None or record.digest != ir.digest() or record.risk != risk:
                self._library.register_blueprint(name, ir, risk)

    def _look(self, artifact_id: str) -> KernelRecord | None:
        """An artifact's record once it has its verdict."""
        record = self._library.record(artifact_id)
        return record if self._settled(record) else None

    def _on_change(self, artifact_id: str) -> None:
        with self._changed:
            self._news.add(artifact_id)
            self._changed.notify_all()

    def _await_news(self, waiting: set[str]) -> set[str]:
        """Wait a moment for something to change; returns which of ``waiting`` to look at."""
        # Short turns, so that a request to stop and a failed organ are seen soon.
        deadline = min(time.monotonic() + TURN_SECONDS, self._look_at)
        with self._changed:
            while not self._news & waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    if deadline < self._look_at:
                        return set()
                    self._look_at = time.monotonic() + self._recheck
                    return set(waiting)
                self._changed.wait(left)
            news, self._news = self._news & waiting, self._news - waiting
            return news


class LentKernels(Kernels):
    """Those that another rank has asked for: they are fetched here, and none is made."""

    def close(self) -> None:
        """Nothing was begun."""

    def _submit(self, wanted: Sequence[Wanted]) -> None:
        raise RunFailed(f"kernels are asked for by the first rank, not by this one ({len(wanted)} were)")

    def _settled(self, record: KernelRecord) -> bool:
        return record.state in FINAL


def event(record: KernelRecord) -> Mapping[str, Any]:
    """What is told of an artifact with a verdict."""
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
