"""Where to grow: the heuristic's order of slots, by measurement where the manifest asks for it.

``Probe`` trusts the loss drop of a short probe with the host frozen, ``GradientNorm`` the gradient at the kernel's last
layer, ``Earliest`` the order of the slots and ``Random`` nothing. What can't be had falls back to the next of Probe,
GradientNorm, Earliest. A probe's drop is far from the gain to come (measured: between a third of it and eight times as
much), so it only shifts the expected gain between slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esper.tamiyo.policy import Draws, Options
from esper.tamiyo.scoring import Scored
from esper.tamiyo.views import Candidate, ProbeResult, RunView, SlotView

#: Most slots probed at once, and the largest share of the remaining steps that probing may take.
MAX_PROBED = 6
MAX_PROBE_SHARE = 0.1
#: Above this share of dead units a slot is passed over while another is open.
MOST_DEAD = 0.95
#: How far one slot's signal may shift the expected gain.
LOWEST_FACTOR, HIGHEST_FACTOR = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """One slot with its best kernel. ``factor`` is the slot's share of the expected gain relative to the others'."""

    slot: str
    kernel: Scored
    factor: float = 1.0
    signal: float = math.nan


@dataclass(frozen=True, slots=True)
class Placement:
    """The slots to choose from, in the order of preference among equals; ``method`` says how that was found.

    ``probed`` is how many kernels were probed, ``hopeless`` true if the probe lowered the loss nowhere.
    """

    places: tuple[Place, ...]
    method: str
    probed: int = 0
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
    """How many candidates may be probed within ``MAX_PROBE_SHARE`` of the steps that remain."""
    costs = options.costs
    steps = max(0, view.epochs - view.epoch) * costs.steps_per_epoch(view)
    if view.budget.step_flops > 0:
        steps = min(steps, costs.available(view) / view.budget.step_flops)
    return min(MAX_PROBED, int(MAX_PROBE_SHARE * steps / max(1, probe_steps)))


def place(method: str, view: RunView, options: Options, probe_steps: int, draws: Draws) -> Placement:
    """Order the open slots by ``method`` (a value of ``controller.placement``)."""
    slots = [slot for slot in options.ranked if not asleep(view.slots[slot])] or list(options.ranked)
    if method == "Random":
        drawn = slots[draws.below(len(slots))]
        return Placement((Place(drawn, options.ranked[drawn][0]),), "Random")
    earliest = tuple(Place(slot, options.ranked[slot][0]) for slot in slots)
    if method == "Earliest":
        return Placement(earliest[:1], "Earliest")
    if view.probe is None:
        return Placement(earliest[:1], "Earliest: no probe is available")
    steps = probe_steps if method == "Probe" else 1
    most = affordable_probes(view, options, steps)
    chosen = shortlist(slots, most)
    if len(chosen) < min(2, len(slots)):
        return Placement(earliest[:1], "Earliest: probing would cost more than a tenth of what remains")
    candidates = [Candidate(slot, options.ranked[slot][0].record.artifact_id) for slot in chosen]
    results = view.probe(candidates)
    return _by_signal(method, candidates, results, options)


def _by_signal(
    method: str, candidates: Sequence[Candidate], results: Mapping[Candidate, ProbeResult], options: Options
) -> Placement:
    probed = len(candidates)
    best = {slot: kernels[0] for slot, kernels in options.ranked.items()}
    drops = {c: results[c].loss_drop for c in candidates if c in results and math.isfinite(results[c].loss_drop)}
    norms = {
        c: results[c].gradient_norm for c in candidates if c in results and math.isfinite(results[c].gradient_norm)
    }
    if method == "Probe" and drops:
        signals, used = drops, "Probe"
    elif norms:
        signals, used = (
            norms,
            "GradientNorm" if method == "GradientNorm" else "GradientNorm: the probe measured no loss",
        )
    else:
        first = candidates[0].slot
        return Placement((Place(first, best[first]),), "Earliest: the probe measured nothing", probed)
    positive = [value for value in signals.values() if value > 0.0]
    if not positive:
        return Placement((), used, probed, hopeless=True)
    mean = math.fsum(positive) / len(positive)
    places = tuple(
        Place(c.slot, best[c.slot], min(max(signals[c] / mean, LOWEST_FACTOR), HIGHEST_FACTOR), signals[c])
        for c in candidates
        if signals.get(c, 0.0) > 0.0
    )
    return Placement(places, used, probed)
