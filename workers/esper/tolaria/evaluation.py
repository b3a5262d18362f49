"""Loss and metrics of a model on one split, example by example.

Several ranks share the batches between them. Each batch is what it would be on one rank and each number is computed by
one rank alone, so the result has the same bits on all of them, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.tasks.running import task_code
from esper.tolaria.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from esper.tasks import Data, Task

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Evaluation:
    """Means over a split, and the losses they came from.

    Attributes:
        loss: mean loss per example.
        metrics: mean of each of the task's metrics.
        losses: float64 tensor of shape (examples,), in the split's own order.
    """

    loss: float
    metrics: dict[str, float]
    losses: Tensor


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, data: Data, device: torch.device, ranks: Ranks = ALONE) -> Evaluation:
    """Evaluate in eval mode, in the split's own order; the model's training flag is put back.

    Raises:
        EsperError: what failed, on every rank if it failed on one.
    """
    was_training = model.training
    model.eval()
    starts = range(0, len(data), EVALUATION_BATCH)
    losses = torch.zeros(len(data), dtype=torch.float64)
    sums = torch.zeros(len(starts), len(task.metrics), dtype=torch.float64)

    def own_part() -> None:
        for number, start in enumerate(starts):
            if number % ranks.world != ranks.rank:
                continue
            indices = torch.arange(start, min(start + EVALUATION_BATCH, len(data)))
            with task_code("data, model, loss or metric"):
                inputs, targets = data.batch(indices)
                inputs, targets = inputs.to(device), targets.to(device)
                outputs = model(inputs)
                losses[start : start + len(indices)] = task.loss(outputs, targets).double().cpu().view(len(indices))
                for column, metric in enumerate(task.metrics.values()):
                    sums[number, column] = metric(outputs, targets).double().sum()

    try:
        ranks.together(own_part)
    finally:
        model.train(was_training)
    # what another rank has computed is zero here: the sum changes no bit
    ranks.add(losses)
    ranks.add(sums)
    totals = dict.fromkeys(task.metrics, 0.0)
    for row in sums.tolist():
        for name, value in zip(totals, row, strict=True):
            totals[name] += value
    return Evaluation(float(losses.mean()), {name: total / len(data) for name, total in totals.items()}, losses)
