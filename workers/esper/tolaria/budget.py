"""What a run may spend and what it has spent: parameters and training FLOPs.

A training step is charged three forward passes (forward, gradient of inputs, gradient of parameters), the usual
estimate. Everything that exists only because the network may grow is charged too: the twin, both cool-downs,
probes, isolated learning, and all that was spent on seeds that were culled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.errors import BudgetTooSmall

TRAINING_PASSES = 3
CATEGORIES = ("host", "seeds", "isolation", "twin", "cooldown", "probe")


@dataclass
class Ledger:
    """FLOPs by category and by the seed that caused them (an empty name where none did).

    ``host`` is what the run would have cost had it not grown; ``seeds`` the kernels' own passes while they train with
    the host; the rest is the price of deciding.
    """

    entries: dict[str, dict[str, int]] = field(default_factory=lambda: {category: {} for category in CATEGORIES})

    def charge(self, category: str, flops: int, seed: str | None = None) -> None:
        """Add training FLOPs to a category and, where a seed caused them, to that seed."""
        if category not in self.entries:
            raise ValueError(f"unknown ledger category {category!r}; allowed: {', '.join(CATEGORIES)}")
        if flops < 0:
            raise ValueError(f"a charge can't be negative ({flops} FLOPs)")
        by_seed = self.entries[category]
        by_seed[seed or ""] = by_seed.get(seed or "", 0) + flops

    @property
    def total(self) -> int:
        """All training FLOPs so far."""
        return sum(sum(by_seed.values()) for by_seed in self.entries.values())

    def spent(self, categories: Collection[str], seeds: Collection[str] | None = None, without: bool = False) -> int:
        """FLOPs in some categories: of everyone, of some seeds, or of everyone but them."""
        return sum(
            flops
            for category in categories
            for seed, flops in self.entries[category].items()
            if seeds is None or (seed in seeds) != without
        )

    def by_purpose(self, culled: Collection[str]) -> dict[str, int]:
        """The total split for people: host, grown, twin (both of seeds not culled), culled, probes."""
        return {
            "host": self.spent(["host"]),
            "grown": self.spent(["seeds", "isolation"], culled, without=True),
            "twin": self.spent(["twin", "cooldown"], culled, without=True),
            "culled": self.spent(["seeds", "isolation", "twin", "cooldown"], culled),
            "probes": self.spent(["probe"]),
        }

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON."""
        return {category: dict(by_seed) for category, by_seed in self.entries.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """The ledger from :meth:`to_dict`."""
        return cls({category: dict(data.get(category, {})) for category in CATEGORIES})


@dataclass(frozen=True)
class Limits:
    """What the manifest allows; ``None`` means no limit of that kind."""

    epochs: int
    parameters: int | None
    training_flops: int | None

    def check_host(self, parameters: int, epoch_flops: int) -> None:
        """Refuse a budget that the host alone can't keep.

        Raises:
            BudgetTooSmall: naming the field, what it says and what the host needs.
        """
        if self.parameters is not None and parameters > self.parameters:
            raise BudgetTooSmall(
                f"spec.budget.parameters is {self.parameters} but the host alone has {parameters}; "
                f"allow at least {parameters}, or choose a smaller host"
            )
        if self.training_flops is not None and epoch_flops > self.training_flops:
            raise BudgetTooSmall(
                f"spec.budget.trainingFlops is {self.training_flops:.3g} but one epoch of the host alone costs "
                f"{epoch_flops:.3g}; allow at least that, or lower spec.training.stepsPerEpoch"
            )

    def steps(self, step_flops: int, per_epoch: int) -> int:
        """Optimizer steps that the host alone could make in the run, at ``step_flops`` training FLOPs each."""
        steps = self.epochs * per_epoch
        if self.training_flops is not None and step_flops > 0:
            steps = min(steps, self.training_flops // step_flops)
        return steps

    def fraction(self, epochs_done: float, flops: float) -> float:
        """The share of the budget that is spent: epochs or FLOPs, whichever is further, in [0, 1]."""
        share = epochs_done / self.epochs
        if self.training_flops is not None:
            share = max(share, flops / self.training_flops)
        return min(1.0, share)
