"""Learning-rate schedules as pure functions of progress.

Progress is the share of the run's budget that is spent (epochs or training FLOPs, whichever is further), so a run
that grows and so affords fewer steps still decays to zero exactly when its budget ends. Warm-up counts steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = ("Constant", "WarmupStableDecay", "Cosine")


@dataclass(frozen=True)
class Progress:
    """The share of the budget spent at the first step of an epoch and after its last one, in [0, 1]."""

    start: float
    stop: float
    steps: int

    def at(self, step_in_epoch: int) -> float:
        """Progress before the given step of the epoch (0-based)."""
        return self.start + (self.stop - self.start) * (step_in_epoch / max(1, self.steps))


@dataclass(frozen=True)
class Schedule:
    """A learning-rate multiplier in [0, 1].

    Attributes:
        kind: ``Constant``, ``WarmupStableDecay`` (linear warm-up, flat, linear decay to zero) or ``Cosine``.
        warmup_steps: optimizer steps of linear warm-up, counted from the run's first step.
        decay_fraction: the last share of the budget over which ``WarmupStableDecay`` falls to zero.
    """

    kind: str
    warmup_steps: int
    decay_fraction: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule kind {self.kind!r} is unknown; allowed: {', '.join(KINDS)}")

    def multiplier(self, progress: float, step: int) -> float:
        """The factor on the base learning rate before optimizer step ``step`` (0-based) at ``progress``."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        progress = min(1.0, max(0.0, progress))
        if self.kind == "Constant":
            shape = 1.0
        elif self.kind == "Cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * progress))
        elif self.decay_fraction <= 0.0:
            shape = 1.0
        else:
            shape = min(1.0, (1.0 - progress) / self.decay_fraction)
        return warm * shape
