"""The kernels on offer for a slot: those the view names, else what the library has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from esper.errors import EsperError
from esper.tamiyo.views import RunView, SlotView

if TYPE_CHECKING:
    from esper.urza.library import KernelQuery, KernelRecord
    from leyline.interface import Interface
    from leyline.resources import TrainingRunSpec


class Kernels(Protocol):
    """Where certified kernels are looked up; every library is one."""

    def query(self, query: KernelQuery) -> Sequence[KernelRecord]:
        """Certified kernels that fit."""
        ...


class Source:
    """Asks a library for what a run's manifest, hardware and toolchain allow."""

    def __init__(self, spec: TrainingRunSpec, kernels: Kernels, hardware: str, toolchain: str) -> None:
        self._spec = spec
        self._kernels = kernels
        self._hardware, self._toolchain = hardware, toolchain

    def find(self, interface: Interface) -> tuple[KernelRecord, ...]:
        """Certified kernels for an interface, whatever their risk: the controller refuses with a reason.

        Raises:
            EsperError: the library can't be asked.
        """
        from esper.urza.library import KernelQuery

        query = KernelQuery(
            interface=interface,
            hardware=self._hardware,
            max_risk=1.0,
            strategies=tuple(strategy.value.lower() for strategy in self._spec.kernels.strategies),
            toolchain=self._toolchain,
            blueprints=tuple(self._spec.kernels.blueprints) or None,
        )
        return tuple(self._kernels.query(query))


class Offers:
    """One decision's offers; the library is asked once per interface, and ``problems`` says if it could not be."""

    def __init__(self, view: RunView, source: Source | None) -> None:
        self._view, self._source = view, source
        self._asked: dict[Interface, Sequence[KernelRecord]] = {}
        self.problems: list[str] = []

    def __call__(self, slot: SlotView) -> Sequence[KernelRecord]:
        """The kernels on offer for ``slot``."""
        offered = self._view.kernels.get(slot.id)
        if offered is not None or self._source is None:
            return offered or ()
        if slot.interface not in self._asked:
            try:
                self._asked[slot.interface] = self._source.find(slot.interface)
            except EsperError as error:
                # Training goes on without the library; the next decision asks again.
                self.problems.append(f"the library can't be asked: {error}")
                self._asked[slot.interface] = ()
        return self._asked[slot.interface]
