"""Tasks that are wrong in the ways users get them wrong."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

import small_tasks
from esper.tasks import Task, TensorData


def shapes_disagree(seed: int) -> Task:
    """The model wants seven features, the data have four."""
    return dataclasses.replace(small_tasks.noisy(seed), model=nn.Linear(7, 2))


def scalar_loss(seed: int) -> Task:
    """The loss is averaged over the batch."""
    return dataclasses.replace(small_tasks.noisy(seed), loss=nn.functional.cross_entropy)


def raises_later(seed: int, where: str) -> Task:
    """Everything is fine until the run is under way."""
    task = small_tasks.noisy(seed)
    calls = {"n": 0}

    def count(*_: object) -> None:
        calls["n"] += torch.is_grad_enabled()
        if calls["n"] > 10 and torch.is_grad_enabled():
            raise RuntimeError("late")

    class Late(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.blocks = inner

        def forward(self, x: Tensor) -> Tensor:
            count()
            return self.blocks(x)

    class LateData(TensorData):
        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            count()
            return super().batch(indices)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        count()
        return task.loss(outputs, targets)

    parts: dict[str, Any] = {"model": Late(task.model)}
    if where == "loss":
        parts = {"model": nn.Sequential(OrderedDict(blocks=task.model)), "loss": loss}
    elif where == "data":
        parts = {
            "model": nn.Sequential(OrderedDict(blocks=task.model)),
            "train": LateData(task.train.inputs, task.train.targets),
        }
    return dataclasses.replace(task, **parts)
