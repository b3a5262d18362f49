"""Tasks for tests: a noisy little network that uses every kind of state a run must keep apart."""

from __future__ import annotations

import torch
from torch import nn

from esper.tasks import Task, TensorData


def noisy(seed: int, width: int = 12, dropout: float = 0.3) -> Task:
    """Two blobs on a ring, a network with BatchNorm (running statistics) and dropout (random numbers)."""
    draw = torch.Generator().manual_seed(7)
    inputs = torch.randn(1200, 4, generator=draw)
    targets = ((inputs[:, 0] * inputs[:, 1] + inputs[:, 2] ** 2) > 0.5).long()

    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))

    model = nn.Sequential()
    model.add_module("stem", nn.Linear(4, width))
    model.add_module("blocks", nn.Sequential(block(), block()))
    model.add_module("head", nn.Linear(width, 2))
    return Task(
        model=model,
        train=TensorData(inputs[:800], targets[:800]),
        controller=TensorData(inputs[800:1000], targets[800:1000]),
        report=TensorData(inputs[1000:], targets[1000:]),
        loss=lambda outputs, t: nn.functional.cross_entropy(outputs, t, reduction="none"),
        metrics={"accuracy": lambda outputs, t: (outputs.argmax(-1) == t).float()},
        metric="accuracy",
        higher_is_better=True,
    )
