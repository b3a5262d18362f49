"""What a run has seen so far: the numbers that decisions, checkpoints and the summary are made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Best:
    """The epoch that was best on the controller split, with both splits' results at that epoch.

    The report split's numbers are only kept for the summary; nothing reads them while the run goes on.
    """

    epoch: int
    controller_loss: float
    controller_metric: float
    report_loss: float
    report_metric: float


@dataclass
class History:
    """One value for each finished epoch, oldest first, and the run's rare events.

    Attributes:
        verdicts: by seed id, the judge's numbers for each look.
        offered: kernel artifacts by id, with the number of finished epochs when each became available.
        evicted: artifacts that failed at run time and must not be used again.
        spike_epoch: the last epoch in which the governor saw a loss spike.
    """

    train_losses: list[float] = field(default_factory=list)
    controller_losses: list[float] = field(default_factory=list)
    controller_metrics: list[float] = field(default_factory=list)
    best: Best | None = None
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    offered: dict[str, int] = field(default_factory=dict)
    evicted: list[str] = field(default_factory=list)
    spike_epoch: int | None = None
    rollbacks: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The history as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> History:
        """The history from :meth:`to_dict`; what it was made from stays as it is when the history grows."""
        fields = copy.deepcopy(dict(data))
        if fields["best"] is not None:
            fields["best"] = Best(**fields["best"])
        return cls(**fields)

    def add_epoch(self, train_loss: float, controller_loss: float, controller_metric: float) -> None:
        """Add a finished epoch."""
        self.train_losses.append(train_loss)
        self.controller_losses.append(controller_loss)
        self.controller_metrics.append(controller_metric)
