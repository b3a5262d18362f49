"""Loss and metrics of a model on one split, example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper.tasks.running import task_code

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
def evaluate(model: nn.Module, task: Task, data: Data, device: torch.device) -> Evaluation:
    """Evaluate in eval mode, in the split's own order; the model's training flag is put back."""
    was_training = model.training
    model.eval()
    losses: list[Tensor] = []
    sums: dict[str, float] = dict.fromkeys(task.metrics, 0.0)
    try:
        for start in range(0, len(data), EVALUATION_BATCH):
            indices = torch.arange(start, min(start + EVALUATION_BATCH, len(data)))
            with task_code("data, model, loss or metric"):
                inputs, targets = data.batch(indices)
                inputs, targets = inputs.to(device), targets.to(device)
                outputs = model(inputs)
                losses.append(task.loss(outputs, targets).double().cpu())
                for name, metric in task.metrics.items():
                    sums[name] += float(metric(outputs, targets).double().sum())
    finally:
        model.train(was_training)
    joined = torch.cat(losses)
    return Evaluation(float(joined.mean()), {name: total / len(data) for name, total in sums.items()}, joined)
