"""What is compared: for each task a host, a ladder of fixed sizes, budgets, learning rates and growth arms.

A budget is in training FLOPs (three forward passes a sample). The sizes are the host ("never"), two between, and
"final": a branch after every block, which is the most that growth could build. All of them run through the engine,
the fixed ones with policy Never.
"""

from __future__ import annotations

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
        epochs: epochs of the host within a budget; growth is decided at their ends.
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
    epochs: int = 40
    first_slot: str = "blocks.0"
    higher_is_better: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    cooldown_steps: int = 50

    def steps_per_epoch(self, budget: float) -> int:
        """Optimizer steps of one epoch, so that the host alone makes ``epochs`` of them within the budget."""
        return max(1, round(budget / (3 * self.host_flops * self.batch_size) / self.epochs))


@dataclass(frozen=True)
class Effort:
    """How much is run: seeds for the report, seeds for tuning (others), and how many of the budgets and rates."""

    seeds: int
    tuning_seeds: int
    budgets: int
    rates: int


EFFORTS = {"quick": Effort(2, 1, 1, 1), "full": Effort(10, 3, 3, 3)}

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
        host_flops=7520,
        blueprint="conv_block",
        batch_size=50,
        budgets=(8e8, 2.4e9, 6e9),
        rates=(0.01, 0.02, 0.04),
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
    ),
}
