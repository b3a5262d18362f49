"""TensorBoard event files, beside ``events.jsonl`` and with the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from esper.output.files import disk_errors
from esper.output.plain import plain

BOARD_DIRECTORY = "tensorboard"

# TensorBoard groups by what stands before the slash, so a run has a handful of sections however many fields it has.
_SECTIONS = {
    "train_loss": "loss/train",
    "controller_loss": "loss/controller",
    "learning_rate": "optimizer/learning_rate",
    "parameters": "size/parameters",
    "seconds": "time/epoch_seconds",
    "median_step_ms": "time/median_step_ms",
    "longest_step_ms": "time/longest_step_ms",
}


class Board:
    """Writes one run's scalars and texts; ``resume_after`` is the last step that still counts (None: a new run).

    On a resume TensorBoard is told to hide everything after that step, so the curves show no step twice.

    Raises:
        StorageFull, OutputDirectoryError: the disk refuses.
    """

    def __init__(self, directory: Path, metric: str, resume_after: int | None = None) -> None:
        self.path = Path(directory) / BOARD_DIRECTORY
        self._metric = metric
        purge = None if resume_after is None else resume_after + 1
        with disk_errors(self.path, "opening"):
            self._writer = SummaryWriter(str(self.path), purge_step=purge)

    def epoch(self, step: int, stats: Mapping[str, Any]) -> None:
        """Write the scalars of an epoch; ``stats`` has the fields of the ``epoch`` event."""
        for field, value in plain(stats).items():
            if field in _SECTIONS:
                self._scalar(_SECTIONS[field], value, step)
        self._scalar(f"metric/controller_{self._metric}", plain(stats).get("controller_metric"), step)
        for purpose, value in plain(stats.get("flops", {})).items():
            self._scalar(f"flops/{purpose}", value, step)
        for stage, count in plain(stats.get("seeds_by_stage", {})).items():
            self._scalar(f"seeds/{stage.lower()}", count, step)

    def seed(self, step: int, seed: str, values: Mapping[str, float]) -> None:
        """Write what is measured of one seed (alpha, health, …)."""
        for name, value in plain(values).items():
            self._scalar(f"seed {seed}/{name}", value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text such as a decision; shown as it is, never as markup."""
        fenced = "\n".join("    " + line for line in text.splitlines())
        self._writer.add_text(name, fenced, step)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        with disk_errors(self.path, "writing"):
            self._writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        with disk_errors(self.path, "closing"):
            self._writer.close()

    def _scalar(self, name: str, value: Any, step: int) -> None:
        # A loss that is not finite has become None: a gap in the curve says it better than a point at zero.
        if isinstance(value, int | float):
            self._writer.add_scalar(name, value, step)
