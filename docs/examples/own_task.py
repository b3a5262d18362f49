"""A task of your own: one function that returns a network, three splits, a loss and metrics.

The manifest beside this file names it as ``own_task:sum_of_sines``; modules beside the manifest are found.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper import Task, TensorData


class Regressor(nn.Module):
    """Any nn.Module will do; it knows nothing of Esper. Its hidden layers are the slots, ``hidden.*``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(2, width)
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def forward(self, points: Tensor) -> Tensor:
        """``(B, 2)`` to ``(B,)``."""
        features = self.stem(points)
        for layer in self.hidden:
            features = layer(features)
        return self.head(features).squeeze(-1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """One value for each example, shape (B,): the judge compares examples, so nothing is averaged over the batch."""
    return (outputs - targets) ** 2


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """A metric is made like a loss: one value for each example."""
    return (outputs - targets).abs()


def sum_of_sines(seed: int, width: int = 8) -> Task:
    """``seed`` is the run's; parameters with a default may be set under ``task.params`` of the manifest."""
    draw = torch.Generator().manual_seed(1)  # the data stay the same whatever the seed of the run
    points = torch.rand(8000, 2, generator=draw) * 2 - 1
    heights = torch.sin(6 * points[:, 0]) + torch.sin(9 * points[:, 0] * points[:, 1])
    return Task(
        model=Regressor(width),  # torch's generator was seeded with the run's seed before this call
        train=TensorData(points[:4000], heights[:4000]),
        controller=TensorData(points[4000:5000], heights[4000:5000]),  # what decisions may look at
        report=TensorData(points[5000:], heights[5000:]),  # what no decision ever sees
        loss=squared_error,
        metrics={"absolute_error": absolute_error},
        metric="absolute_error",
        higher_is_better=False,
    )
