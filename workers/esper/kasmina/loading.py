"""Loading a kernel: fetched and verified beside the training in a background thread, opened and warmed up between two
epochs.
"""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from esper.kasmina.cache import Entry, KernelCache
from esper.kasmina.guard import KernelFault
from esper.kasmina.opening import Checked, check_artifact, open_checked
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


class Loader:
    """Fetches and checks artifacts one after the other in a daemon thread, opens them between two epochs, and shares
    results through a cache.

    Fetching may take long and mostly waits, so training goes on meanwhile. Opening and warming up take some 10 ms of
    the interpreter's lock, which a thread could only take out of a training step; whoever polls pays for them instead.
    """

    def __init__(self, cache: KernelCache) -> None:
        self.cache = cache
        self._lock = threading.Condition()
        self._queue: list[tuple[str, KernelSource]] = []
        self._fetched: dict[str, Checked | Exception] = {}
        self._wanted: set[str] = set()
        self._thread: threading.Thread | None = None

    def request(self, artifact_id: str, source: KernelSource) -> None:
        """Start fetching; a request for what is on its way, or there, joins it. A fetch that failed is tried again."""
        with self._lock:
            known = self._fetched.get(artifact_id)
            if artifact_id in self._wanted or (isinstance(known, Checked) and known.artifact.path.is_dir()):
                return
            self._fetched.pop(artifact_id, None)
            self._wanted.add(artifact_id)
            self._queue.append((artifact_id, source))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="esper-kernel-loader", daemon=True)
                self._thread.start()

    def poll(self, artifact_id: str, *, wait: bool) -> Loaded | None:
        """Open what was fetched; None if it is not there yet. ``wait`` blocks until it is."""
        with self._lock:
            if wait:
                self._lock.wait_for(lambda: artifact_id in self._fetched or artifact_id not in self._wanted)
            fetched = self._fetched.get(artifact_id)
        if fetched is None:
            return None
        if isinstance(fetched, Exception):
            return Loaded(None, fetched)
        try:
            return Loaded(self.cache.get(artifact_id, lambda: _open(fetched)))
        except Exception as error:  # noqa: BLE001  the bank turns it into a culled seed with this reason
            with self._lock:
                self._fetched.pop(artifact_id, None)  # the next request has it fetched anew
            return Loaded(None, error)

    def load_now(self, artifact_id: str, source: KernelSource, *, even_if_evicted: bool = False) -> Entry:
        """Load in the calling thread. ``even_if_evicted`` is for restoring a state in which the kernel was in use.

        Raises:
            Exception: whatever fetching, verification or warm-up raised.
        """

        def load() -> Entry:
            return _open(check_artifact(source.path(artifact_id), source.keys))

        if even_if_evicted and artifact_id in self.cache.banned:
            return load()
        return self.cache.get(artifact_id, load)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    # the thread ends when idle: nothing to stop at exit, nothing left behind by tests
                    self._thread = None
                    return
                artifact_id, source = self._queue.pop(0)
            outcome: Checked | Exception
            try:
                outcome = check_artifact(source.path(artifact_id), source.keys)
            except Exception as error:  # noqa: BLE001  told to whoever polls
                outcome = error
            with self._lock:
                self._fetched[artifact_id] = outcome
                self._wanted.discard(artifact_id)
                self._lock.notify_all()


def _open(checked: Checked) -> Entry:
    kernel = open_checked(checked)
    norm, latency = warm_up(kernel, kernel.interface)
    size = checked.size + sum(p.numel() * p.element_size() for p in kernel.parameters())
    return Entry(kernel, size, checked.risk, latency, norm)


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
