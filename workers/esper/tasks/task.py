"""The parts of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from esper.tasks.data import Data

PerExample = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, targets) -> (B,)``: one value for each example, never averaged over the batch."""


@dataclass(frozen=True)
class Factory:
    """Where a task came from, so that it can be built again (by a twin, by a resumed run) with the same bits."""

    ref: str
    params: Mapping[str, object]
    seed: int


@dataclass(frozen=True)
class Task:
    """A model and what it is trained and measured on.

    ``loss`` and every entry of ``metrics`` map ``(outputs, targets)`` to one float per example, shape ``(B,)``: the
    judge compares examples, so nothing may be averaged inside. ``metric`` names the entry of ``metrics`` that a report
    leads with; ``higher_is_better`` is about that entry. ``train`` is trained on, ``controller`` is what decisions may
    see, ``report`` is never seen by any decision. ``factory`` is filled in by ``load_task``.
    """

    model: nn.Module
    train: Data
    controller: Data
    report: Data
    loss: PerExample
    metrics: Mapping[str, PerExample]
    metric: str
    higher_is_better: bool
    factory: Factory | None = field(default=None)
