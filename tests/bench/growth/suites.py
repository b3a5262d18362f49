"""What is compared: for each task a host, a ladder of fixed sizes, budgets, learning rates and growth arms.

A budget is in training FLOPs (three forward passes a sample). The sizes are the host ("never"), two between, and
"final": a branch after every block, which is the most that growth could build. All of them run through the engine,
the fixed ones with policy Never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIXED = ("never", "between-1", "between-2", "final")
GROWTH = ("heuristic", "unjudged", "random-slot", "random", "always", "fixed")
ARMS = FIXED + GROWTH


@dataclass(frozen=True)
class Suite:
    """One task's comparison.

    Attributes:
        sizes: task parameters that turn the host into each of the fixed sizes.
        host_flops: forward FLOPs of the host for one sample.
        budgets: training FLOPs, shortest first.
        rates: learning rates tried for every arm.
        epoch_steps: the most optimizer steps an epoch may have: one pass over the training split.
        first_slot: where arm "fixed" grows, at the end of its second epoch.
        higher_is_better: about the task's metric.
    """

    name: str
    ref: str
    sizes: Mapping[str, Mapping[str, Any]]
    host_flops: int
    blueprint: str
    batch_size: int
    budgets: tuple[float, ...]
    rates: tuple[float, ...]
    epoch_steps: int
    first_slot: str = "blocks.0"
    higher_is_better: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)

    def host_steps(self, budget: float) -> int:
        """Optimizer steps that the host alone makes within the budget."""
        return int(budget / (3 * self.host_flops * self.batch_size))

    def steps_per_epoch(self, budget: float) -> int:
        """Optimizer steps of one epoch, the same for all arms: about 40 epochs of the host; growth is decided at
        their ends."""
        return min(self.epoch_steps, max(SHORTEST_EPOCH, round(self.host_steps(budget) / 40)))

    def epochs(self, budget: float) -> int:
        """More epochs than any arm can pay for, so that FLOPs bind and not epochs."""
        return 2 * math.ceil(self.host_steps(budget) / self.steps_per_epoch(budget))


@dataclass(frozen=True)
class Effort:
    """How much is run: seeds for the report, seeds for tuning (others), how many of the budgets and rates, and at how
    many of the budgets rates are tuned (longer ones take the rate of the longest that was)."""

    seeds: int
    tuning_seeds: int
    budgets: int
    rates: int
    tuned_budgets: int


EFFORTS = {"quick": Effort(2, 1, 1, 1, 1), "full": Effort(10, 2, 3, 3, 2)}
SHORTEST_EPOCH = 20

SUITES: dict[str, Suite] = {
    "mnist1d": Suite(
        name="mnist1d",
        ref="esper.tasks.mnist1d:task",
        sizes={
            "never": {},
            "between-1": {"branches": [0, 1, 0]},
            "between-2": {"branches": [1, 0, 0]},
            "final": {"branches": 1},
        },
        params={"report_examples": 2000},
        host_flops=7520,
        blueprint="conv_block",
        batch_size=50,
        budgets=(6e8, 1.8e9, 5e9),
        rates=(0.01, 0.02, 0.04),
        epoch_steps=80,
    ),
    "vector": Suite(
        name="vector",
        ref="esper.tasks.vector:task",
        sizes={
            "never": {},
            "between-1": {"branches": [0, 0, 1]},
            "between-2": {"branches": [1, 0, 0]},
            "final": {"branches": 1},
        },
        host_flops=336,
        blueprint="mlp",
        batch_size=100,
        budgets=(4e7, 1.6e8, 6.4e8),
        rates=(0.005, 0.01, 0.02),
        epoch_steps=80,
    ),
}
