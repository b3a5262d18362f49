"""What the trainer needs of the kernel pipeline, whoever provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from esper.kernel.signing import PublicKeys
    from esper.urza import KernelRecord


class KernelShelf(Protocol):
    """Certified kernels on offer to this run, and where their files are (also a KernelSource)."""

    keys: PublicKeys

    def path(self, artifact_id: str) -> Path:
        """The verified local directory of an artifact."""

    def offers(self, offered: Mapping[str, int]) -> Mapping[str, Sequence[KernelRecord]]:
        """By slot, the records of the artifacts in ``offered``: what this run knows of, whatever else arrived since."""

    def arrivals(self) -> Sequence[str]:
        """Artifacts that became available since the last call; the trainer journals the epoch."""

    def to_dict(self) -> dict[str, Any]:
        """The records the run has been offered, as JSON: part of its state, because it decided on their numbers."""

    def load(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_dict`: what was offered since counts as new again."""

    @property
    def wait_seconds(self) -> float:
        """How long training had to wait for kernels so far."""
