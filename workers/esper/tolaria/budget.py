"""What a run may spend and what it has spent: parameters and training FLOPs.

A training step is charged three forward passes (forward, gradient of inputs, gradient of parameters), the usual
estimate. Everything that exists only because the network may grow is charged too: the twin, both cool-downs,
probes, isolated learning, and all that was spent on seeds that were culled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.errors import BudgetTooSmall

TRAINING_PASSES = 3
CATEGORIES = ("host", "seeds", "isolation", "twin", "cooldown", "probe")


@dataclass
class Ledger:
    """FLOPs by category, and by the seed that caused them.

    ``host`` is what the run would have cost had it not grown; ``seeds`` the kernels' own passes while they train with
    the host; the rest is the price of deciding. ``by_seed`` holds every charge a seed caused, so that what was spent
    on culled seeds can be told at the end.
    """

    by_category: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    by_seed: dict[str, int] = field(default_factory=dict)

    def charge(self, category: str, flops: int, seed: str | None = None) -> None:
        """Add training FLOPs to a category and, where a seed caused them, to that seed."""
        if category not in self.by_category:
            raise ValueError(f"unknown ledger category {category!r}; allowed: {', '.join(CATEGORIES)}")
        if flops < 0:
            raise ValueError(f"a charge can't be negative ({flops} FLOPs)")
        self.by_category[category] += flops
        if seed is not None:
            self.by_seed[seed] = self.by_seed.get(seed, 0) + flops

    @property
    def total(self) -> int:
        """All training FLOPs so far."""
        return sum(self.by_category.values())

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON."""
        return {"by_category": dict(self.by_category), "by_seed": dict(self.by_seed)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        """The ledger from :meth:`to_dict`."""
        return cls({**dict.fromkeys(CATEGORIES, 0), **data["by_category"]}, dict(data["by_seed"]))


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

    def fraction(self, epochs_done: float, flops: float) -> float:
        """The share of the budget that is spent: epochs or FLOPs, whichever is further, in [0, 1]."""
        share = epochs_done / self.epochs
        if self.training_flops is not None:
            share = max(share, flops / self.training_flops)
        return min(1.0, share)
