"""Policies: given what is allowed, should a seed germinate now, where, and with which kernel?

The controller narrows the view first (limits, embargoes, risk, budget), so a policy can't ask for what is forbidden by
accident, and it checks each proposal again. A policy never sees a tensor or a clock and answers the same to the same
view and state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from esper.tamiyo.scoring import Lessons
from esper.tamiyo.views import Numbers, RunView

if TYPE_CHECKING:
    from esper.tamiyo.cost import CostModel
    from esper.tamiyo.scoring import Scored
    from esper.tamiyo.trend import Trend
    from esper.tamiyo.views import Order
    from leyline.resources import TrainingRunSpec


@dataclass(frozen=True, slots=True)
class Proposal:
    """A wish to germinate the artifact in the slot, with its reason and evidence."""

    slot: str
    artifact_id: str
    reason: str
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy wants; ``reason`` also says why it wants nothing."""

    reason: str
    proposals: tuple[Proposal, ...] = ()
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """What is allowed now.

    ``ranked`` maps each open slot, earliest first, to its admissible kernels, best first. ``capacity`` is how many
    seeds may germinate now. ``trend`` is the controller loss since the network last changed, ``train_trend`` the same
    for the training loss. ``lessons`` is what the run has taught, ``last_germination`` the epoch of the last order to
    germinate, ``changing`` whether a seed is being blended or judged, ``reserved`` the training FLOPs
    promised to seeds in flight.
    """

    ranked: Mapping[str, Sequence[Scored]]
    capacity: int
    costs: CostModel
    trend: Trend | None = None
    train_trend: Trend | None = None
    lessons: Lessons = field(default_factory=Lessons)
    last_germination: int | None = None
    changing: bool = False
    reserved: float = 0.0


class Policy(Protocol):
    """Chooses germinations; everything else is the controller's business."""

    def decide(self, view: RunView, options: Options) -> Choice:
        """What to grow now; called only when at least one germination is allowed."""
        ...

    def accepted(self, order: Order, epoch: int) -> None:
        """Learn that a proposal of this policy became an order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        ...


class Draws:
    """Random numbers whose whole state is a seed and a count, so that they resume exactly anywhere."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0

    def below(self, n: int) -> int:
        """The next number in 0 … n − 1, uniform up to 2⁻⁶⁴·n."""
        text = f"tamiyo:{self.seed}:{self.count}".encode()
        self.count += 1
        return int.from_bytes(hashlib.sha256(text).digest()[:16], "big") % n


class _Stateless:
    """A policy that remembers nothing."""

    def accepted(self, order: Order, epoch: int) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


def not_yet(spec: TrainingRunSpec, view: RunView, last_germination: int | None) -> str:
    """Why this is no moment to grow, by the manifest's calendar; empty if it is one."""
    controller = spec.controller
    if view.epoch < controller.warmup_epochs:
        return f"warming up until epoch {controller.warmup_epochs}"
    if view.budget.remaining_fraction < controller.minimum_remaining_fraction:
        share = controller.minimum_remaining_fraction
        return f"less than {share:g} of the run remains: a new seed could not pay for itself"
    if last_germination is not None and view.epoch - last_germination < controller.patience_epochs:
        return f"the last germination is less than {controller.patience_epochs} epochs ago"
    return ""


class Never(_Stateless):
    """The control that never grows."""

    def decide(self, view: RunView, options: Options) -> Choice:
        """Nothing, ever."""
        return Choice("policy Never does not grow")


class Always(_Stateless):
    """Germinates the best kernel in the earliest open slots whenever that is allowed."""

    def decide(self, view: RunView, options: Options) -> Choice:
        """As many of the earliest slots as there is room for."""
        slots = list(options.ranked)[: options.capacity]
        reason = "policy Always grows wherever it may"
        return Choice(
            reason, tuple(Proposal(slot, options.ranked[slot][0].record.artifact_id, reason) for slot in slots)
        )


class Random:
    """Grows at every moment the heuristic could, with slot and kernel drawn at random: the control for placement."""

    def __init__(self, spec: TrainingRunSpec) -> None:
        self._spec = spec
        self._draws = Draws(spec.seed)

    def decide(self, view: RunView, options: Options) -> Choice:
        """One random open slot and one random admissible kernel."""
        if reason := not_yet(self._spec, view, options.last_germination):
            return Choice(reason)
        slots = list(options.ranked)
        slot = slots[self._draws.below(len(slots))]
        kernels = sorted(one.record.artifact_id for one in options.ranked[slot])
        artifact = kernels[self._draws.below(len(kernels))]
        reason = "policy Random drew this slot and kernel"
        numbers = {"open_slots": float(len(slots)), "kernels": float(len(kernels))}
        return Choice(reason, (Proposal(slot, artifact, reason, numbers),))

    def accepted(self, order: Order, epoch: int) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """How many numbers were drawn."""
        return {"draws": self._draws.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the numbers already drawn."""
        self._draws.count = int(state["draws"])


class Fixed:
    """Follows ``controller.fixed``: each entry is due once its epoch has finished and stays due until it is ordered."""

    def __init__(self, spec: TrainingRunSpec) -> None:
        self._schedule = list(spec.controller.fixed)
        self._done: set[int] = set()

    def decide(self, view: RunView, options: Options) -> Choice:
        """The due entries whose slot is open and whose blueprint has an admissible kernel."""
        proposals: list[Proposal] = []
        missing: list[str] = []
        taken: set[str] = set()
        for index, entry in enumerate(self._schedule):
            if index in self._done or entry.epoch > view.epoch or entry.slot in taken:
                continue
            kernels = [one for one in options.ranked.get(entry.slot, ()) if one.record.blueprint == entry.blueprint]
            if not kernels:
                missing.append(f"{entry.blueprint} in {entry.slot}")
            elif len(proposals) < options.capacity:
                taken.add(entry.slot)
                reason = f"scheduled for epoch {entry.epoch}"
                proposals.append(Proposal(entry.slot, kernels[0].record.artifact_id, reason))
        if proposals:
            return Choice("following controller.fixed", tuple(proposals))
        if missing:
            return Choice(f"due but not possible now: {', '.join(missing)}")
        return Choice("nothing in controller.fixed is due")

    def accepted(self, order: Order, epoch: int) -> None:
        """Strike the first due entry that the order fulfils."""
        for index, entry in enumerate(self._schedule):
            wanted = (entry.slot, entry.blueprint) == (order.slot, order.blueprint)
            if index not in self._done and entry.epoch <= epoch and wanted:
                self._done.add(index)
                return

    def state_dict(self) -> dict[str, Any]:
        """Which entries are done."""
        return {"done": sorted(self._done)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._done = {int(index) for index in state["done"]}
