"""The spirals, with training that waits for a file at one of its batches: so that a test can act in mid-run.

``GATE_BATCH`` and ``GATE_FILE`` of the environment say where and for what; without them nothing waits. What is trained
is the same either way.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.tasks import Data, Task
from esper.tasks.vector import task as spirals


class Gated:
    """A split whose n-th batch has to wait."""

    def __init__(self, split: Data, batch: int, gate: Path) -> None:
        self._split, self._left, self._gate = split, batch, gate

    def __len__(self) -> int:
        return len(self._split)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._left -= 1
        while self._left == 0 and not self._gate.exists():
            time.sleep(0.02)
        return self._split.batch(indices)


def task(seed: int, **params: Any) -> Task:
    """See the module."""
    made = spirals(seed, **params)
    if "GATE_FILE" not in os.environ:
        return made
    return replace(made, train=Gated(made.train, int(os.environ["GATE_BATCH"]), Path(os.environ["GATE_FILE"])))
