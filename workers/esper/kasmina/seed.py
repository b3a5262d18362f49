"""One seed: where it stands in its lifecycle, its kernel, its blend factor, and what has been measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esper.kasmina.gates import GateResult, Judged
from leyline.lifecycle import Actor, Stage
from leyline.resources.enums import AlphaSchedule, Blend, Objective

if TYPE_CHECKING:
    from esper.kasmina.guard import GuardedKernel
    from esper.kasmina.isolation import IsolatedLearner
    from esper.kernel import Kernel

#: Stages in which the seed changes the host's output.
AFFECTS_HOST = frozenset({Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILIZED})
#: Stages in which a seed holds a place among ``max_active``.
ACTIVE = frozenset(
    {
        Stage.LOADING,
        Stage.TRAINING,
        Stage.GRAFTING,
        Stage.STABILIZATION,
        Stage.EVALUATING,
        Stage.FINE_TUNING,
        Stage.ERROR_RECOVERY,
    }
)
#: Stages in which a seed occupies a place in its slot.
OCCUPIES = (ACTIVE | {Stage.GERMINATED, Stage.FOSSILIZED, Stage.ROLLED_BACK, Stage.CULLED, Stage.CANCELLED}) - {
    Stage.DORMANT
}


@dataclass(frozen=True)
class SeedEvent:
    """One transition of one seed with its reason and the numbers behind it."""

    seed: str
    slot: str
    source: Stage
    target: Stage
    actor: Actor
    epoch: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    artifact_id: str = ""
    blueprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values; stages by name, numbers that are not finite as None."""
        return {
            "seed": self.seed,
            "slot": self.slot,
            "source": self.source.name,
            "target": self.target.name,
            "actor": str(self.actor),
            "epoch": self.epoch,
            "reason": self.reason,
            "numbers": {key: value if math.isfinite(value) else None for key, value in self.numbers.items()},
            "gates": [gate.to_dict() for gate in self.gates],
            "artifact_id": self.artifact_id,
            "blueprint": self.blueprint,
        }


@dataclass
class Scale:
    """rms of the seed's output over rms of its input, over the calls that were measured since the stage began."""

    measured: int = 0
    branch: float = 0.0
    host: float = 0.0

    @property
    def ratio(self) -> float:
        """The ratio; 0 if nothing was measured, infinite if the input was all zero and the output was not."""
        if self.measured == 0 or self.branch == 0.0:
            return 0.0
        return math.sqrt(self.branch / self.host) if self.host > 0.0 else math.inf


@dataclass(eq=False)
class Seed:
    """A seed in a slot. ``ready`` says that it has finished its stage; it never moves by itself.

    ``id`` is "<slot>/<ordinal>", the ordinal counts the germinations of the slot. ``entered_epoch`` is the epoch at
    whose end it entered its stage. ``kernel`` is None while nothing is loaded; ``touched`` says that it has affected
    the host, ``full`` that alpha is exactly 1 for good (nothing is multiplied then), ``reference_only`` that its
    compiled path failed after it was fossilized, ``switched_off`` that its reference path failed too: it is the
    identity for good.
    """

    id: str
    slot: str
    ordinal: int
    position: int
    artifact_id: str
    blueprint: str
    blend: Blend
    objective: Objective
    schedule: AlphaSchedule
    stage: Stage = Stage.DORMANT
    kernel: Kernel | None = None
    ready: bool = False
    entered_epoch: int = 0
    reason: str = ""
    history: list[SeedEvent] = field(default_factory=list)
    alpha_buffer: Tensor = field(default_factory=lambda: torch.zeros(()))
    guarded: GuardedKernel | None = None
    learner: IsolatedLearner | None = None
    ramp_done: int = 0
    ramp_steps: int = 0
    epochs_in_stage: int = 0
    touched: bool = False
    reference_only: bool = False
    switched_off: bool = False
    full: bool = False
    _verdict: Judged | None = None
    faults: int = 0
    fault: str = ""
    scale: Scale = field(default_factory=Scale)
    warm_gradient: float = 0.0
    latency_us: float = 0.0
    trainable: bool = True

    @property
    def alpha(self) -> float:
        """The blend factor now, in [0, 1]."""
        return float(self.alpha_buffer)

    @property
    def affects_host(self) -> bool:
        """True while the host's output depends on this seed."""
        return self.stage in AFFECTS_HOST

    @property
    def active(self) -> bool:
        """True from loading to the final verdict."""
        return self.stage in ACTIVE

    @property
    def verdict(self) -> Judged | None:
        """The judge's verdict; gate G4 reads it."""
        return self._verdict

    @verdict.setter
    def verdict(self, verdict: Judged | None) -> None:
        self._verdict = verdict
        if self.stage is Stage.EVALUATING:
            self.ready = verdict is not None
