"""Backends: how a blueprint becomes blobs on one machine and a kernel on another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from esper.kernel.artifact import Artifact, PairCall
from esper.kernel.errors import BackendUnavailable
from esper.kernel.module import Kernel
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["STRATEGIES", "Built", "KernelBackend", "backend", "backend_for"]

#: Which backend a strategy builds with.
STRATEGIES = {"fast": "eager", "standard": "aoti"}


@dataclass(frozen=True)
class Built:
    """What a build leaves: blobs by name, and the manifest fields only the backend knows."""

    saved_bytes_per_sample: int
    blobs: dict[str, bytes] = field(default_factory=dict)
    pair: PairCall | None = None


class KernelBackend(Protocol):
    """One way to build and load kernels."""

    name: str

    def unavailable(self) -> str | None:
        """Return why nothing can be built here, or None. Loading has no such condition."""
        ...

    def build(self, ir: BlueprintIR, interface: Interface, workdir: Path) -> Built:
        """Build; ``workdir`` is private to this artifact and has the same path on every attempt."""
        ...

    def load(self, artifact: Artifact) -> Kernel:
        """Make a kernel from a verified artifact, without a compiler."""
        ...


def backend(name: str) -> KernelBackend:
    """Return the backend called ``name``.

    Raises:
        BackendUnavailable: there is none of that name.
    """
    from esper.kernel.backends.aoti import AotiBackend
    from esper.kernel.backends.eager import EagerBackend

    known: dict[str, type[KernelBackend]] = {"eager": EagerBackend, "aoti": AotiBackend}
    if name not in known:
        raise BackendUnavailable(f"backend {name!r} does not exist here; known are {', '.join(known)}")
    return known[name]()


def backend_for(strategy: str) -> KernelBackend:
    """Return the backend a strategy builds with.

    Raises:
        BackendUnavailable: the strategy has none.
    """
    if strategy not in STRATEGIES:
        raise BackendUnavailable(f"strategy {strategy!r} can't be built here; known are {', '.join(STRATEGIES)}")
    return backend(STRATEGIES[strategy])
