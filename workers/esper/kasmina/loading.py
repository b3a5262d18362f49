"""Loading a kernel beside the training: fetch, verify, load and warm up in a background thread."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from esper.kasmina.cache import Entry, KernelCache
from esper.kasmina.guard import KernelFault
from leyline.interface import Interface

if TYPE_CHECKING:
    from esper.kernel import Kernel
    from esper.kernel.signing import PublicKeys


class KernelSource(Protocol):
    """Where kernels come from."""

    @property
    def keys(self) -> PublicKeys:
        """The public keys artifacts must be signed by."""

    def path(self, artifact_id: str) -> Path:
        """A local directory with the artifact; may fetch it first.

        Raises:
            EsperError: there is no such artifact, or it can't be had.
        """


@dataclass(frozen=True)
class KernelReport:
    """What is told about a kernel that failed. ``phase`` is "load" or "run"."""

    artifact_id: str
    seed: str
    slot: str
    phase: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """Outcome of a load: an entry of the cache, or what went wrong."""

    entry: Entry | None
    error: Exception | None = None


Open = Callable[[Path, "PublicKeys"], "tuple[Kernel, float]"]


class Loader:
    """Runs loads one after the other in a daemon thread, and shares results through a cache.

    Args:
        cache: where loaded kernels are kept.
        open_artifact: verifies the directory (every digest, both signatures) and opens it; returns the kernel and the
            risk its signed report states.
    """

    def __init__(self, cache: KernelCache, open_artifact: Open) -> None:
        self.cache, self._open = cache, open_artifact
        self._lock = threading.Condition()
        self._queue: list[tuple[str, KernelSource]] = []
        self._results: dict[str, Loaded] = {}
        self._wanted: set[str] = set()
        self._thread: threading.Thread | None = None

    def request(self, artifact_id: str, source: KernelSource) -> None:
        """Start loading; a request for what is already wanted joins it."""
        with self._lock:
            self._results.pop(artifact_id, None)
            if artifact_id in self._wanted:
                return
            self._wanted.add(artifact_id)
            self._queue.append((artifact_id, source))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="esper-kernel-loader", daemon=True)
                self._thread.start()

    def poll(self, artifact_id: str, *, wait: bool) -> Loaded | None:
        """The outcome, or None if it is not there yet; ``wait`` blocks until it is."""
        with self._lock:
            if wait:
                self._lock.wait_for(lambda: artifact_id in self._results or artifact_id not in self._wanted)
            return self._results.get(artifact_id)

    def load_now(self, artifact_id: str, source: KernelSource, *, even_if_evicted: bool = False) -> Entry:
        """Load in the calling thread. ``even_if_evicted`` is for restoring a state in which the kernel was in use.

        Raises:
            Exception: whatever fetching, verification or warm-up raised.
        """
        if even_if_evicted and artifact_id in self.cache.banned:
            return self._load(artifact_id, source)
        return self.cache.get(artifact_id, lambda: self._load(artifact_id, source))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    # the thread ends when idle: nothing to stop at exit, nothing left behind by tests
                    self._thread = None
                    return
                artifact_id, source = self._queue.pop(0)
            try:
                outcome = Loaded(self.load_now(artifact_id, source))
            except Exception as error:  # noqa: BLE001  the bank turns it into a culled seed with this reason
                outcome = Loaded(None, error)
            with self._lock:
                self._results[artifact_id] = outcome
                self._wanted.discard(artifact_id)
                self._lock.notify_all()

    def _load(self, artifact_id: str, source: KernelSource) -> Entry:
        began = time.perf_counter()
        path = source.path(artifact_id)
        kernel, risk = self._open(path, source.keys)
        norm, latency = warm_up(kernel, kernel.interface)
        size = sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
        size += sum(p.numel() * p.element_size() for p in kernel.parameters())
        return Entry(kernel, size, risk, latency, norm, time.perf_counter() - began)


def warm_up(kernel: Kernel, interface: Interface) -> tuple[float, float]:
    """One forward and backward pass in train mode with a batch of two, so that the first training step pays for
    nothing.

    Returns:
        The norm of the parameters' gradient, and the time of a second forward pass in microseconds.

    Raises:
        KernelFault: the kernel raised, or its output does not fit the interface or is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    shape = tuple(interface.shape(2))
    u = torch.randn(shape, generator=generator, dtype=torch.float32).to(getattr(torch, interface.dtype))
    trial = copy.deepcopy(kernel)
    try:
        trial.reset_parameters(generator)
        trial.train()
        u.requires_grad_(True)
        branch = trial(u)
        if not isinstance(branch, Tensor) or branch.shape != u.shape or branch.dtype != u.dtype:
            found = (tuple(branch.shape), branch.dtype) if isinstance(branch, Tensor) else type(branch).__name__
            raise KernelFault(f"warm-up: returned {found}, expected {shape} {u.dtype}")
        if branch.requires_grad:
            tangent = torch.randn(shape, generator=generator, dtype=torch.float32).to(u.dtype)
            torch.autograd.backward(branch, tangent)
        began = time.perf_counter()
        with torch.no_grad():
            trial(u)
        latency = (time.perf_counter() - began) * 1e6
    except KernelFault:
        raise
    except Exception as error:
        raise KernelFault(f"warm-up: {type(error).__name__}: {error}") from error
    gradients = [p.grad for p in trial.parameters() if p.grad is not None]
    if not bool(torch.isfinite(branch).all()) or not all(bool(torch.isfinite(g).all()) for g in gradients):
        raise KernelFault("warm-up: the output or a gradient is not finite")
    return (float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0), latency
