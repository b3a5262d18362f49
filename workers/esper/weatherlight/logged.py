"""A run's progress in the log of its process: one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from esper.output.plain import plain

_EPOCH = (
    "epoch", "epochs", "train_loss", "controller_loss", "controller_metric", "learning_rate", "parameters", "seconds",
    "seeds_by_stage",
)  # fmt: skip


class Logged:
    """A ``Progress`` for a process without a person in front of it."""

    def __init__(self, run: str) -> None:
        self._log = structlog.get_logger("esper.train").bind(run=run)

    def phase(self, text: str) -> None:
        """A line."""
        self._log.info("phase", phase=text)

    def kernel(self, done: int, total: int, text: str) -> None:
        """A line."""
        self._log.info("kernel", done=done, total=total, text=text)

    def epoch(self, stats: Mapping[str, Any]) -> None:
        """A line with the numbers people look for."""
        self._log.info("epoch", **{name: plain(stats.get(name)) for name in _EPOCH})

    def seed_event(self, seed: str, source: str, target: str, reason: str, **details: Any) -> None:
        """A line."""
        self._log.info("seed", seed=seed, source=source, target=target, reason=reason, **plain(details))

    def message(self, text: str, level: str = "info") -> None:
        """A line at this level."""
        {"warning": self._log.warning, "error": self._log.error}.get(level, self._log.info)("message", text=text)

    def close(self) -> None:
        """Nothing is held back."""
