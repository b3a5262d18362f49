"""Slots and kernels that are out of bounds for a while after something went wrong there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

FOREVER = -1


class Embargo:
    """Which slots and kernels must wait, and until which epoch.

    An entry made at epoch e for n epochs holds at e, …, e + n − 1. A longer entry is never shortened.
    """

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._kernels: dict[str, int] = {}

    def slot(self, slot: str, epoch: int, epochs: int) -> None:
        """Keep ``slot`` closed for ``epochs`` epochs."""
        self._slots[slot] = max(self._slots.get(slot, 0), epoch + epochs)

    def kernel(self, artifact_id: str, epoch: int, epochs: int) -> None:
        """Keep an artifact unused for ``epochs`` epochs."""
        if artifact_id and self._kernels.get(artifact_id) != FOREVER:
            self._kernels[artifact_id] = max(self._kernels.get(artifact_id, 0), epoch + epochs)

    def evict(self, artifact_ids: Collection[str]) -> None:
        """Never use these artifacts again in this run."""
        for artifact_id in artifact_ids:
            self._kernels[artifact_id] = FOREVER

    def closed_slots(self, epoch: int) -> dict[str, int]:
        """The slots closed at ``epoch`` and the first epoch at which each is open again. Drops expired entries."""
        self._slots = {slot: until for slot, until in self._slots.items() if until > epoch}
        return self._slots

    def closed_kernels(self, epoch: int) -> dict[str, int]:
        """The artifacts closed at ``epoch``; the value is the first open epoch, or ``FOREVER``."""
        self._kernels = {key: until for key, until in self._kernels.items() if until > epoch or until == FOREVER}
        return self._kernels

    def state_dict(self) -> dict[str, Any]:
        """All entries as JSON values."""
        return {"slots": dict(self._slots), "kernels": dict(self._kernels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._slots = {str(slot): int(until) for slot, until in state["slots"].items()}
        self._kernels = {str(key): int(until) for key, until in state["kernels"].items()}
