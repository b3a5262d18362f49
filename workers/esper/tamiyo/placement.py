"""Where to grow: the heuristic's order of slots, by measurement where the manifest asks for it.

``Earliest`` trusts the order of the slots, ``Probe`` the loss drop of a short probe with the host frozen,
``GradientNorm`` the gradient at the kernel's last layer, and ``Random`` nothing. Measured against a random slot, on a
small convolutional network: earliest +1.22 ± 0.27 points, probe +0.94 ± 0.30, gradient norm +0.92 ± 0.30. What can't
be had falls back: Probe to GradientNorm, both to Earliest. A probe's drop is far from the gain to come (measured:
between a third of it and eight times as much), so it only shifts the expected gain between slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esper.tamiyo.cost import GRADIENT_STEPS
from esper.tamiyo.policy import Draws, Options
from esper.tamiyo.scoring import Scored
from esper.tamiyo.views import Candidate, ProbeResult, RunView, SlotView

#: Most slots probed at once, and the largest share of the remaining compute that probing may take: in a run of a few
#: thousand steps three slots cost a probe 8 %, and knowing the best of them is worth less.
MAX_PROBED = 6
MAX_PROBE_SHARE = 0.02
#: What a kernel after the last slot is worth of one after the first, per added FLOP, where nothing is measured: on the
#: small convolutional network the three slots' worth was as 1 to 0.37 to 0.09.
LAST_OVER_FIRST = 0.1
#: Above this share of dead units a slot is passed over while another is open.
MOST_DEAD = 0.95
#: How far one slot's signal may shift the expected gain.
LOWEST_FACTOR, HIGHEST_FACTOR = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """One slot with its best kernel. ``factor`` is what is known of the slot's worth, as a multiple of the usual."""

    slot: str
    kernel: Scored
    factor: float = 1.0
    signal: float = math.nan


@dataclass(frozen=True, slots=True)
class Probing:
    """The slots that come into question, in their order, before anything is measured.

    ``probe`` is whether they are to be measured; ``method`` says how they were found.
    """

    places: tuple[Place, ...]
    method: str
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The slots to choose from after a probe, in their order; ``hopeless`` if it lowered the loss nowhere."""

    places: tuple[Place, ...]
    method: str
    hopeless: bool = False


def shortlist(slots: Sequence[str], most: int) -> list[str]:
    """At most ``most`` slots in their order: the earliest half, the rest spread over the depth that is left."""
    if len(slots) <= most:
        return list(slots)
    early = math.ceil(most / 2)
    rest, spread = slots[early:], most - early
    return [*slots[:early], *(rest[(i + 1) * len(rest) // spread - 1] for i in range(spread))]


def asleep(slot: SlotView) -> bool:
    """True if almost nothing flows through the slot: a branch there would see next to nothing but zeros."""
    statistics = slot.statistics
    return statistics.get("dead_fraction", 0.0) > MOST_DEAD or statistics.get("variance", 1.0) <= 0.0


def affordable_probes(view: RunView, options: Options, probe_steps: int) -> int:
    """How many candidates may be probed within ``MAX_PROBE_SHARE`` of the compute that remains."""
    costs = options.costs
    steps = max(0, view.epochs - view.epoch) * costs.steps_per_epoch(view)
    if view.budget.step_flops > 0:
        steps = min(steps, costs.available(view) / view.budget.step_flops)
    return min(MAX_PROBED, int(MAX_PROBE_SHARE * steps / max(1, probe_steps)))


def _by_depth(slot: str, view: RunView) -> float:
    """The factor on a slot's worth by its place among all slots, where nothing better is known."""
    order = list(view.slots)
    return float(LAST_OVER_FIRST ** (order.index(slot) / max(1, len(order) - 1)))


def candidates(method: str, view: RunView, options: Options, probe_steps: int, draws: Draws) -> Probing:
    """The open slots that come into question by ``method`` (a value of ``controller.placement``)."""
    slots = [slot for slot in options.ranked if not asleep(view.slots[slot])] or list(options.ranked)
    if method == "Random":
        slots = [slots[draws.below(len(slots))]]
        return Probing((Place(slots[0], options.ranked[slots[0]][0]),), method)
    earliest = (Place(slots[0], options.ranked[slots[0]][0], _by_depth(slots[0], view)),)
    if method == "Earliest":
        return Probing(earliest, method)
    if view.probe is None:
        return Probing(earliest, "Earliest: no probe is available")
    most = affordable_probes(view, options, probe_steps if method == "Probe" else GRADIENT_STEPS)
    chosen = shortlist(slots, most)
    if len(chosen) < min(2, len(slots)):
        why = f"Earliest: probing would cost more than {MAX_PROBE_SHARE:.0%} of what remains"
        return Probing(earliest, why)
    return Probing(tuple(Place(slot, options.ranked[slot][0]) for slot in chosen), method, probe=True)


def place(eligible: Probing, view: RunView) -> Placement:
    """Run the probe on the places that come into question, and shift their expected gains by what it found."""
    assert view.probe is not None
    by_candidate = {Candidate(one.slot, one.kernel.record.artifact_id): one for one in eligible.places}
    return _by_signal(eligible.method, by_candidate, view.probe(list(by_candidate)))


def _by_signal(method: str, places: Mapping[Candidate, Place], results: Mapping[Candidate, ProbeResult]) -> Placement:
    drops = {c: results[c].loss_drop for c in places if c in results and math.isfinite(results[c].loss_drop)}
    norms = {c: results[c].gradient_norm for c in places if c in results and math.isfinite(results[c].gradient_norm)}
    if method == "Probe" and drops:
        signals, used = drops, "Probe"
    elif norms:
        signals = norms
        used = "GradientNorm" if method == "GradientNorm" else "GradientNorm: the probe measured no loss"
    else:
        return Placement((next(iter(places.values())),), "Earliest: the probe measured nothing")
    positive = [value for value in signals.values() if value > 0.0]
    if not positive:
        return Placement((), used, hopeless=True)
    mean = math.fsum(positive) / len(positive)
    shifted = tuple(
        replace(one, factor=min(max(signals[c] / mean, LOWEST_FACTOR), HIGHEST_FACTOR), signal=signals[c])
        for c, one in places.items()
        if signals.get(c, 0.0) > 0.0
    )
    return Placement(shifted, used)
