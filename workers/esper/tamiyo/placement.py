"""Where to grow: which slots come into question, and what is known of each one's worth.

A slot's worth per added FLOP is a factor on the κ that is hoped for, 1 in the best slot. ``GradientNorm`` takes the
gradient at the kernel's zero-initialised last layer: over the slots of two convolutional networks it stood as
1 : 0.9 : 0.2, and on MNIST-1D so did what kernels in them were worth in the end. ``Probe`` takes the loss drop of a
short probe with the host frozen; ``Earliest`` only ever asks for the first open slot, and ``Random`` draws one whenever
the best would pay. What can't
be had falls back: Probe to GradientNorm, both to the depth of the slot. Which slot it becomes is decided by the payoff,
so a slot where steps get too dear loses to one where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from esper.tamiyo.cost import GRADIENT_STEPS
from esper.tamiyo.policy import Options
from esper.tamiyo.scoring import Scored
from esper.tamiyo.views import Candidate, ProbeResult, RunView, SlotView

#: Most slots weighed at once, and the largest share of the remaining compute that probing may take: in a run of a few
#: thousand steps three slots cost a probe 8 %, and knowing the best of them is worth less.
MAX_PROBED = 6
MAX_PROBE_SHARE = 0.02
#: What a kernel after the last slot is worth of one after the first, per added FLOP, where nothing is measured; in
#: between by depth.
LAST_OVER_FIRST = 0.2
#: Above this share of dead units a slot is passed over while another is open.
MOST_DEAD = 0.95
#: The least that a weak signal leaves of a slot's worth.
LOWEST_FACTOR = 0.1

Signals = Mapping[Candidate, float]


@dataclass(frozen=True, slots=True)
class Place:
    """One slot with its best kernel. ``factor`` is what is known of the slot's worth, as a share of the best one's."""

    slot: str
    kernel: Scored
    factor: float = 1.0
    signal: float = math.nan

    @property
    def candidate(self) -> Candidate:
        """What a probe is asked about."""
        return Candidate(self.slot, self.kernel.record.artifact_id)


@dataclass(frozen=True, slots=True)
class Probing:
    """The slots that come into question, in their order, before anything is measured.

    ``probe`` is whether they are to be measured, once a trial would pay by what their factors are before; ``method``
    says how they were found.
    """

    places: tuple[Place, ...]
    method: str
    probe: bool = False


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


def candidates(method: str, view: RunView, options: Options, probe_steps: int) -> Probing:
    """The open slots that come into question by ``method`` (a value of ``controller.placement``)."""
    slots = [slot for slot in options.ranked if not asleep(view.slots[slot])] or list(options.ranked)
    if method == "Random":
        return Probing(tuple(Place(slot, options.ranked[slot][0]) for slot in shortlist(slots, MAX_PROBED)), method)
    if method == "Earliest":
        return Probing(_by_depth(slots[:1], view, options), method)
    if view.probe is None:
        return Probing(_by_depth(shortlist(slots, MAX_PROBED), view, options), "by depth: no probe is available")
    most = affordable_probes(view, options, probe_steps if method == "Probe" else GRADIENT_STEPS)
    if most < min(2, len(slots)):
        why = f"by depth: probing would cost more than {MAX_PROBE_SHARE:.0%} of what remains"
        return Probing(_by_depth(shortlist(slots, MAX_PROBED), view, options), why)
    return Probing(_by_depth(shortlist(slots, most), view, options), method, probe=True)


def _by_depth(slots: Sequence[str], view: RunView, options: Options) -> tuple[Place, ...]:
    """Places whose worth falls evenly from the first of all slots to the last, where nothing better is known."""
    order = {slot: index for index, slot in enumerate(view.slots)}
    last = max(1, len(order) - 1)
    return tuple(
        Place(slot, options.ranked[slot][0], 1.0 - (1.0 - LAST_OVER_FIRST) * order[slot] / last) for slot in slots
    )


def signals(method: str, results: Mapping[Candidate, ProbeResult]) -> tuple[dict[Candidate, float], str]:
    """What a probe says by ``method``, and in words by what it was found; empty if it measured nothing."""
    drops = {c: result.loss_drop for c, result in results.items() if math.isfinite(result.loss_drop)}
    if method == "Probe" and drops:
        return drops, "Probe"
    norms = {c: result.gradient_norm for c, result in results.items() if math.isfinite(result.gradient_norm)}
    if norms:
        return norms, "GradientNorm" if method == "GradientNorm" else "GradientNorm: the probe measured no loss"
    return {}, "by depth: the probe measured nothing"


def place(eligible: Probing, found: Signals, view: RunView, options: Options) -> tuple[Place, ...]:
    """The places with a positive signal, each with its share of the strongest; by depth if nothing was measured."""
    known = [found[one.candidate] for one in eligible.places if one.candidate in found]
    if not known:
        return _by_depth([one.slot for one in eligible.places], view, options)
    top = max(known)
    return tuple(
        replace(one, factor=max(found[one.candidate] / top, LOWEST_FACTOR), signal=found[one.candidate])
        for one in eligible.places
        if found.get(one.candidate, 0.0) > 0.0
    )
