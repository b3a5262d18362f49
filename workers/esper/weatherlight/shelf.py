"""The kernels on offer to one run: what the library certified for its slots, as it was when the run first saw it.

Measurements in the library change as it grows (tags are percentiles), and a resumed run must decide on the numbers it
decided on before. So each record is part of the run's state from the moment it is first offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from esper.errors import LibraryError
from esper.urza import KernelQuery, KernelRecord, State, UnknownArtifact
from esper.weatherlight.patient import AWAY

if TYPE_CHECKING:
    from esper.kernel import PublicKeys
    from esper.urza import Library
    from leyline.interface import Interface
    from leyline.resources import TrainingRunSpec


class Source(Protocol):
    """Where artifacts' files are."""

    keys: PublicKeys

    def path(self, artifact_id: str) -> Path:
        """The verified local directory of an artifact."""


class RunShelf:
    """A KernelShelf over a library.

    Args:
        library: asked for certified kernels.
        source: where their files are.
        slots: interface by slot id.
        spec: which strategies and blueprints the run allows.
        hardware, toolchain: what this process runs on.
        away: told that the library can't be asked, which then has nothing new; if not given that is an error.
    """

    def __init__(
        self, library: Library, source: Source, slots: Mapping[str, Interface], spec: TrainingRunSpec,
        hardware: str, toolchain: str, *, away: Callable[[LibraryError], object] | None = None,
    ) -> None:  # fmt: skip
        self._away = away
        self._library, self._source, self._slots, self._spec = library, source, dict(slots), spec
        self._hardware, self._toolchain = hardware, toolchain
        self.keys = source.keys
        self.wait_seconds = 0.0
        self._known: dict[str, KernelRecord] = {}
        self._by_slot: dict[str, list[str]] = {slot: [] for slot in slots}

    def path(self, artifact_id: str) -> Path:
        """See :class:`Source`."""
        return self._source.path(artifact_id)

    def fetchable(self) -> bool:
        """Whether the library still has every kernel the run has been offered; on another machine it may not."""
        try:
            return all(self._library.record(artifact).state is State.VALIDATED for artifact in self._known)
        except UnknownArtifact:
            return False

    def records(self) -> list[KernelRecord]:
        """Every record the run has been offered."""
        return [self._known[artifact] for artifact in sorted(self._known)]

    def offers(self, offered: Mapping[str, int]) -> Mapping[str, Sequence[KernelRecord]]:
        """By slot, the records of the artifacts in ``offered``, in the order of their ids."""
        return {
            slot: [self._known[artifact] for artifact in artifacts if artifact in offered and artifact in self._known]
            for slot, artifacts in self._by_slot.items()
        }

    def arrivals(self) -> Sequence[str]:
        """Artifacts certified since the last call, in the order of their ids."""
        new: list[str] = []
        for slot, interface in self._slots.items():
            try:
                offered = self._library.query(self._query(interface))
            except AWAY as error:
                if self._away is None:
                    raise
                self._away(error)
                break
            for record in offered:
                if record.artifact_id not in self._known:
                    self._known[record.artifact_id] = record
                    new.append(record.artifact_id)
                if record.artifact_id not in self._by_slot[slot]:
                    self._by_slot[slot] = sorted([*self._by_slot[slot], record.artifact_id])
        return sorted(set(new))

    def _query(self, interface: Interface) -> KernelQuery:
        controller = self._spec.controller
        return KernelQuery(
            interface=interface,
            hardware=self._hardware,
            max_risk=1.0 if controller.approved else controller.max_risk,
            strategies=tuple(str(strategy).lower() for strategy in self._spec.kernels.strategies),
            toolchain=self._toolchain,
            blueprints=tuple(self._spec.kernels.blueprints) or None,
        )

    def to_dict(self) -> dict[str, Any]:
        """See :class:`esper.tolaria.shelf.KernelShelf`."""
        return {
            "records": [{**asdict(record), "state": str(record.state)} for record in self.records()],
            "slots": {slot: list(ids) for slot, ids in self._by_slot.items()},
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """See :class:`esper.tolaria.shelf.KernelShelf`."""
        self._known.clear()
        names = {field.name for field in fields(KernelRecord)}
        for entry in data["records"]:
            known = {key: value for key, value in entry.items() if key in names}
            record = KernelRecord(**{**known, "state": State(entry["state"]), "tags": tuple(entry["tags"])})
            self._known[record.artifact_id] = record
        self._by_slot = {slot: list(data["slots"].get(slot, ())) for slot in self._by_slot}
