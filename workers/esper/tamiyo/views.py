"""What the controller sees and what it says: plain numbers and names, no tensors.

``RunView`` is built by the trainer after each epoch. Everything a decision depends on is in it, so that the same view
and the same controller state always give the same orders. Clock readings have no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from esper.urza.library import KernelRecord
    from leyline.interface import Interface

Numbers = Mapping[str, float]

#: Stages in which a seed owns a kernel or waits for one, and its fate is open.
IN_FLIGHT = frozenset(
    {
        Stage.GERMINATED,
        Stage.LOADING,
        Stage.TRAINING,
        Stage.GRAFTING,
        Stage.STABILIZATION,
        Stage.EVALUATING,
        Stage.FINE_TUNING,
        Stage.ERROR_RECOVERY,
    }
)
#: Stages in which a seed's story is over.
OVER = frozenset({Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge found for one seed; ``stage`` says which look it was (EVALUATING, or FINE_TUNING for the second).

    ``numbers`` holds the evidence: effect (controller loss of the twin minus that with the seed), p_value, n.
    """

    promoted: bool
    reason: str = ""
    numbers: Numbers = field(default_factory=dict)
    stage: Stage = Stage.EVALUATING


@dataclass(frozen=True, slots=True)
class SeedView:
    """One seed. ``entered_epoch`` is the number of finished epochs when it entered ``stage``.

    ``trainable`` is false for a kernel without parameters; ``reason`` tells why the seed is where it is, if that is
    known (a failed gate, a load error).
    """

    id: str
    slot: str
    stage: Stage
    ready: bool = False
    entered_epoch: int = 0
    blueprint: str = ""
    artifact_id: str = ""
    verdict: Verdict | None = None
    trainable: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SlotView:
    """One place where a seed can grow. ``calls`` is how often its module runs in one forward pass.

    ``statistics`` are Kasmina's activation statistics (variance, dead_fraction, correlation, rms, count) as numbers;
    ``free`` is false while the slot holds as many seeds as it may.
    """

    id: str
    interface: Interface
    statistics: Numbers = field(default_factory=dict)
    seeds: Sequence[SeedView] = ()
    free: bool = True
    calls: int = 1


@dataclass(frozen=True, slots=True)
class BudgetView:
    """What has been spent and what may be. Limits of ``None`` are unlimited.

    ``parameters_used`` counts the host and every loaded kernel (TRAINING up to FOSSILIZED), not the twin.
    ``flops_used`` counts all training FLOPs so far: culled seeds, twins and probes too. ``step_flops`` are the
    training FLOPs of one optimizer step of the network as it is now, without the twin. ``remaining_fraction`` is the
    share of the run still ahead, in [0, 1]. ``steps_per_epoch``, ``samples_per_step`` and ``cooldown_steps`` (of one
    cool-down of the judge) of 0 are derived from the view and the spec.
    """

    parameters_used: int
    flops_used: float
    step_flops: float
    remaining_fraction: float
    parameters_limit: int | None = None
    flops_limit: float | None = None
    steps_per_epoch: int = 0
    samples_per_step: int = 0
    cooldown_steps: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A kernel in a slot: what the probe is asked about."""

    slot: str
    artifact_id: str


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a short probe with a frozen host measured.

    ``loss_drop`` is the fall of the controller loss after the probe's steps (positive is better), ``gradient_norm`` the
    norm of the task gradient at the kernel's zero-initialised last layer, ``flops`` the forward FLOPs per sample that
    the kernel adds. A value that was not measured is NaN.
    """

    loss_drop: float
    gradient_norm: float
    flops: float


Probe = Callable[[Sequence[Candidate]], Mapping[Candidate, ProbeResult]]


@dataclass(frozen=True, slots=True)
class RunView:
    """The run after ``epoch`` finished epochs (0 before the first) and ``step`` optimizer steps.

    ``controller_losses``, ``controller_metrics`` and ``train_losses`` hold one value for each finished epoch, oldest
    first. ``slots`` is in forward order, the earliest first. ``kernels`` names the certified kernels on offer for each
    slot; for a slot that is not in it the library is asked. ``loss_spike_epoch`` is the last epoch in which the
    governor saw a loss spike, ``evicted`` the artifacts that must not be used again in this run.
    """

    epoch: int
    epochs: int
    step: int
    budget: BudgetView
    controller_losses: Sequence[float]
    slots: Mapping[str, SlotView]
    seeds: Mapping[str, SeedView] = field(default_factory=dict)
    kernels: Mapping[str, Sequence[KernelRecord]] = field(default_factory=dict)
    controller_metrics: Sequence[float] = ()
    train_losses: Sequence[float] = ()
    loss_spike_epoch: int | None = None
    evicted: Collection[str] = ()
    probe: Probe | None = None
    run: str = ""


class OrderKind(StrEnum):
    """What a seed or a slot is told to do."""

    GERMINATE = "germinate"
    ADVANCE = "advance"
    CANCEL = "cancel"
    CULL = "cull"


@dataclass(frozen=True, slots=True)
class Order:
    """One explained command. ``seed`` is ``None`` for GERMINATE, which names a slot, an artifact and a blend instead.

    ``target`` is the stage the seed is to enter; ``numbers`` is the evidence.
    """

    kind: OrderKind
    slot: str
    target: Stage
    reason: str
    seed: str | None = None
    artifact_id: str = ""
    blueprint: str = ""
    blend: str = ""
    numbers: Numbers = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The order as JSON values; the stage by name."""
        return {
            "kind": str(self.kind),
            "slot": self.slot,
            "target": self.target.name,
            "reason": self.reason,
            "seed": self.seed,
            "artifact_id": self.artifact_id,
            "blueprint": self.blueprint,
            "blend": self.blend,
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Order:
        """The inverse of ``to_dict``."""
        fields = dict(data)
        return cls(**{**fields, "kind": OrderKind(fields["kind"]), "target": Stage[fields["target"]]})


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided after one epoch, and why; also when nothing was ordered.

    ``refused`` lists what was wanted but not allowed, each with its reason. Equal decisions in a row are stored once:
    ``epoch`` is the first of them, ``last_epoch`` the last and ``repeats`` how many followed the first.
    """

    epoch: int
    reason: str
    orders: tuple[Order, ...] = ()
    refused: tuple[str, ...] = ()
    numbers: Numbers = field(default_factory=dict)
    last_epoch: int = 0
    repeats: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values."""
        return {
            "epoch": self.epoch,
            "last_epoch": self.last_epoch,
            "repeats": self.repeats,
            "reason": self.reason,
            "orders": [order.to_dict() for order in self.orders],
            "refused": list(self.refused),
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The inverse of ``to_dict``."""
        fields = dict(data)
        fields["orders"] = tuple(Order.from_dict(order) for order in fields["orders"])
        fields["refused"] = tuple(fields["refused"])
        return cls(**fields)
