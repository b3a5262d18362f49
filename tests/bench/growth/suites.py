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
GROWTH = ("heuristic", "random-slot", "random", "always", "fixed")
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
        tuned: the budgets at which learning rates are tuned; the others take the rate of the nearest.
        epochs_of_host: about how many epochs the host makes within a budget; growth is decided at their ends.
        first_slot: where arm "fixed" grows, at the end of its second epoch.
        metric, unit: the task's metric and what a hundredth of it is called.
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
    tuned: tuple[float, ...]
    epochs_of_host: int = 40
    first_slot: str = "blocks.0"
    metric: str = "Accuracy"
    unit: str = "in points"
    higher_is_better: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)

    def host_steps(self, budget: float) -> int:
        """Optimizer steps that the host alone makes within the budget."""
        return int(budget / (3 * self.host_flops * self.batch_size))

    def steps_per_epoch(self, budget: float) -> int:
        """Optimizer steps of one epoch, the same for all arms."""
        return min(self.epoch_steps, max(SHORTEST_EPOCH, round(self.host_steps(budget) / self.epochs_of_host)))

    def epochs(self, budget: float) -> int:
        """More epochs than any arm can pay for, so that FLOPs bind and not epochs."""
        return 2 * math.ceil(self.host_steps(budget) / self.steps_per_epoch(budget))


@dataclass(frozen=True)
class Effort:
    """How much is run: seeds for the report, seeds for tuning (others), and how many of the budgets and rates."""

    seeds: int
    tuning_seeds: int
    budgets: int
    rates: int


EFFORTS = {"quick": Effort(2, 1, 1, 1), "full": Effort(10, 2, 3, 3)}
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
        tuned=(6e8, 1.8e9),
    ),
    "digits": Suite(
        name="digits",
        ref="esper.tasks.digits:task",
        sizes={
            "never": {},
            "between-1": {"branches": [0, 1, 0]},
            "between-2": {"branches": [1, 0, 0]},
            "final": {"branches": 1},
        },
        host_flops=10448,
        blueprint="conv_block_2d",
        batch_size=30,
        budgets=(2e8, 6e8, 1.8e9),
        rates=(0.01, 0.02, 0.04),
        epoch_steps=30,
        tuned=(6e8,),
    ),
    "chars": Suite(
        name="chars",
        ref="esper.tasks.chars:task",
        sizes={
            "never": {},
            "between-1": {"branches": [1, 0]},
            "between-2": {"depth": 3},
            "final": {"branches": 1},
        },
        params={"width": 16, "heads": 2, "context": 32, "controller_examples": 400, "report_examples": 600},
        host_flops=466944,
        blueprint="mlp",
        batch_size=8,
        budgets=(1e9, 3e9, 1e10),
        rates=(0.005, 0.01, 0.02),
        epoch_steps=900,
        epochs_of_host=25,
        tuned=(3e9,),
        metric="Bits per character",
        unit="in hundredths of a bit",
        higher_is_better=False,
    ),
}
