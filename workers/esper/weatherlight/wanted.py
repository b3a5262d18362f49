"""Which kernels a run would like to have: its slots' interfaces times its blueprints times its strategies."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.errors import BadInput
from esper.karn.catalogue import CATALOGUE
from esper.kernel.artifact import artifact_id
from esper.tezzeret.building import strategies as known_strategies
from esper.urza import Library
from leyline.blueprint import BlueprintIR
from leyline.errors import BlueprintError
from leyline.identity import BASELINE
from leyline.interface import Interface


@dataclass(frozen=True)
class Wanted:
    """One kernel to have: ``baseline`` is the artifact it is measured against, empty for a baseline itself."""

    artifact_id: str
    blueprint: str
    ir: BlueprintIR
    interface: Interface
    strategy: str
    baseline: str = ""


def designs(names: Iterable[str], library: Library) -> dict[str, tuple[BlueprintIR, float]]:
    """Design and prior risk by name, from the catalogue or else from the library.

    Raises:
        BadInput: neither knows a name; the nearest are given.
    """
    stored = {record.name: record for record in library.blueprints()}
    found: dict[str, tuple[BlueprintIR, float]] = {}
    for name in names:
        if name in CATALOGUE:
            found[name] = (CATALOGUE[name].ir, CATALOGUE[name].risk)
        elif name in stored:
            found[name] = (stored[name].ir, stored[name].risk)
        else:
            near = difflib.get_close_matches(name, [*CATALOGUE, *stored], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`esper blueprints` lists those there are"
            raise BadInput(f"blueprint {name!r}: neither in the catalogue nor in the library; {hint}")
    return found


def check_usable(designs: Mapping[str, tuple[BlueprintIR, float]], interfaces: Iterable[Interface]) -> None:
    """Refuse designs somebody asked for by name when no slot can take them.

    Raises:
        BadInput: naming the design and the layouts it is for.
    """
    places = list(interfaces)
    for name, (ir, _) in designs.items():
        if not any(_fits(ir, interface) for interface in places):
            layouts = ", ".join(layout.value for layout in ir.layouts)
            raise BadInput(
                f"spec.kernels.blueprints: {name} is for {layouts} and fits none of the slots; "
                "`esper validate` lists those that do"
            )


def unavailable(strategies: Iterable[str]) -> dict[str, str]:
    """Strategies that can't be built on this machine, each with the reason."""
    known = known_strategies()
    asked = {strategy: known.get(strategy, "this version can't build it") for strategy in strategies}
    return {strategy: reason for strategy, reason in asked.items() if reason is not None}


def portfolio(
    designs: Mapping[str, BlueprintIR],
    interfaces: Iterable[Interface],
    strategies: Sequence[str],
    device: str = "cpu",
) -> list[Wanted]:
    """Every kernel that can be, baselines first and always there, in the order the rest was given; each artifact once.

    A design that does not fit an interface is left out for it.
    """
    ordered = [BASELINE, *(strategy for strategy in dict.fromkeys(strategies) if strategy != BASELINE)]
    found: dict[str, Wanted] = {}
    for strategy in ordered:
        for interface in dict.fromkeys(interfaces):
            for name, ir in designs.items():
                if not _fits(ir, interface):
                    continue
                identity = str(artifact_id(ir, interface, strategy, device))
                baseline = "" if strategy == BASELINE else str(artifact_id(ir, interface, BASELINE, device))
                found.setdefault(identity, Wanted(identity, name, ir, interface, strategy, baseline))
    return list(found.values())


def _fits(ir: BlueprintIR, interface: Interface) -> bool:
    try:
        ir.check(interface)
    except BlueprintError:
        return False
    return True
