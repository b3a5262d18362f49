"""The blueprints every library starts with, by name.

Each is a branch s(u) that is added to the host. All of them return exactly zero before they have been trained, because
their last parametrised operator starts at zero: blending one in does not move the host, and its gradients do the rest.
They differ in what they can express (which positions and features mix, and how), not in sizes only.

``risk`` is a prior from 0 to 1, before anything was measured: how likely the block is to disturb a trained host or to
disappoint numerically. Plain convolutions and MLPs are at the low end; products of activations and attention, whose
scale grows with their input, are higher.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from esper.errors import BadInput
from esper.karn import images, positionless, sequences
from leyline.blueprint import BlueprintIR
from leyline.errors import BlueprintError
from leyline.interface import Interface, Layout

__all__ = ["CATALOGUE", "CatalogueEntry", "entry", "fitting"]


@dataclass(frozen=True)
class CatalogueEntry:
    """One blueprint: what it is called, what it computes, what it is good for and how risky it is a priori."""

    name: str
    ir: BlueprintIR
    summary: str
    risk: float

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts it works on."""
        return self.ir.layouts

    def fits(self, interface: Interface) -> bool:
        """Whether it can be built for ``interface``."""
        try:
            self.ir.check(interface)
        except BlueprintError:
            return False
        return True


def _collect() -> Mapping[str, CatalogueEntry]:
    found: dict[str, CatalogueEntry] = {}
    for name, (ir, summary, risk) in (positionless.BLUEPRINTS | sequences.BLUEPRINTS | images.BLUEPRINTS).items():
        found[name] = CatalogueEntry(name, ir, summary, risk)
    return MappingProxyType(found)


#: Every blueprint by name, the plainest of each layout first.
CATALOGUE: Mapping[str, CatalogueEntry] = _collect()


def entry(name: str) -> CatalogueEntry:
    """Return the blueprint called ``name``.

    Raises:
        BadInput: there is none; the message suggests the nearest names.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(CATALOGUE)}"
        raise BadInput(f"blueprint {name!r} is not in the catalogue; {hint}")
    return CATALOGUE[name]


def fitting(interface: Interface) -> list[CatalogueEntry]:
    """Return what can be built for ``interface``, in catalogue order: the first is the default choice."""
    return [item for item in CATALOGUE.values() if item.fits(interface)]
