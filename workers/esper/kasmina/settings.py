"""How seeds behave in one run: limits, durations, objective, blend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leyline.resources.enums import AlphaSchedule, Blend, Freeze, Objective

if TYPE_CHECKING:
    from leyline.resources import TrainingRunSpec


@dataclass(frozen=True)
class SeedSettings:
    """Settings of a bank; defaults are those of a manifest.

    Durations are in epochs. ``isolation_learning_rate`` is AdamW's rate while a seed learns alone.
    ``parameters_limit`` bounds the parameters of host and seeds together. ``steps_per_epoch`` is used for the alpha
    ramp; None takes the length of the epoch before the ramp began. ``deterministic`` makes the bank wait at an epoch
    boundary for a kernel that is being loaded, so that stages never depend on the clock.
    """

    run_seed: int = 0
    steps_per_epoch: int | None = None
    max_active: int = 1
    max_per_slot: int = 1
    max_total: int | None = None
    objective: Objective = Objective.NONE
    isolation_epochs: int = 1
    isolation_learning_rate: float = 1e-3
    blend: Blend = Blend.RESIDUAL
    alpha_schedule: AlphaSchedule = AlphaSchedule.LINEAR
    grafting_epochs: int = 2
    stabilization_epochs: int = 1
    fine_tuning_epochs: int = 1
    freeze: Freeze = Freeze.AT_END
    output_scale_limit: float = 4.0
    parameters_limit: int | None = None
    max_risk: float = 0.6
    approved: frozenset[str] = frozenset()
    judged: bool = True
    judged_twice: bool = False
    deterministic: bool = True
    cache_bytes: int = 256 * 1024 * 1024
    cache_count: int = 64

    def __post_init__(self) -> None:
        # the SDK may be given names instead of members
        for name, kind in (("objective", Objective), ("blend", Blend), ("alpha_schedule", AlphaSchedule)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        object.__setattr__(self, "freeze", Freeze(self.freeze))

    @classmethod
    def from_spec(cls, spec: TrainingRunSpec) -> SeedSettings:
        """The settings a manifest asks for."""
        seeds = spec.seeds
        return cls(
            run_seed=spec.seed,
            steps_per_epoch=spec.training.steps_per_epoch,
            max_active=seeds.max_active,
            max_per_slot=seeds.max_per_slot,
            max_total=seeds.max_total,
            objective=seeds.objective,
            isolation_epochs=seeds.isolation_epochs,
            isolation_learning_rate=spec.training.optimizer.learning_rate * seeds.learning_rate_scale,
            blend=seeds.blend,
            alpha_schedule=seeds.alpha_schedule,
            grafting_epochs=seeds.grafting_epochs,
            stabilization_epochs=seeds.stabilization_epochs,
            fine_tuning_epochs=seeds.fine_tuning_epochs,
            freeze=seeds.freeze,
            output_scale_limit=seeds.output_scale_limit,
            parameters_limit=spec.budget.parameters,
            max_risk=spec.controller.max_risk,
            approved=frozenset(spec.controller.approved),
            judged=spec.judge.mode != "Off",
            judged_twice=spec.judge.mode == "Twice",
            cache_bytes=spec.kernels.cache_bytes,
            cache_count=spec.kernels.cache_count,
        )
