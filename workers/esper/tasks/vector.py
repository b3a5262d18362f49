"""Interleaved spirals in the plane: points on several noisy arms, one class each; a multilayer perceptron as host."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from esper.tasks.data import consecutive
from esper.tasks.losses import accuracy, counts_per_block, cross_entropy, require
from esper.tasks.task import Task

_DATA_SEED = 31


class DenseBranch(nn.Module):
    """``u -> s(u)``: LayerNorm, linear, GELU, linear; the last starts at zero, so ``u + s(u)`` starts as ``u``.

    With ``expansion`` 4 this is the catalogue's ``mlp``, so a host with branches is a grown host from scratch.
    """

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width * expansion)
        self.act = nn.GELU()
        self.narrow = nn.Linear(width * expansion, width)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, u: Tensor) -> Tensor:
        """``(B, width)`` to the same shape."""
        out: Tensor = self.narrow(self.act(self.widen(self.norm(u))))
        return out


class DenseBlock(nn.Module):
    """Linear, ReLU, then residual branches."""

    def __init__(self, inputs: int, width: int, branches: int, expansion: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.act = nn.ReLU()
        self.branches = nn.ModuleList(DenseBranch(width, expansion) for _ in range(branches))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, width)``."""
        u: Tensor = self.act(self.linear(x))
        for branch in self.branches:
            u = u + branch(u)
        return u


class Perceptron(nn.Module):
    """Blocks and a linear read-out; ``blocks.*`` are the natural slots."""

    def __init__(self, inputs: int, width: int, branches: list[int], expansion: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DenseBlock(inputs if index == 0 else width, width, count, expansion) for index, count in enumerate(branches)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to logits ``(B, classes)``."""
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


@lru_cache(maxsize=4)
def _points(examples: int, arms: int, turns: float, noise: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(_DATA_SEED)
    labels = torch.randint(arms, (examples,), generator=generator)
    radius = torch.rand(examples, generator=generator).sqrt()
    angle = 2 * math.pi * (turns * radius + labels / arms)
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    points = points + noise * torch.randn(examples, 2, generator=generator)
    return (points - points.mean(0)) / points.std(0), labels


def task(
    seed: int,
    *,
    width: int = 8,
    hidden: int = 3,
    branches: int | list[int] = 0,
    expansion: int = 4,
    arms: int = 3,
    turns: float = 2.5,
    noise: float = 0.02,
    train_examples: int = 6000,
    controller_examples: int = 2000,
    report_examples: int = 10000,
) -> Task:
    """``hidden`` blocks, interface vector ``(B, width)``; inputs ``(B, 2)``, logits ``(B, arms)``.

    ``branches`` is the number of residual branches after each block (one number, or a list with one for each). The data
    do not depend on ``seed``, the initial parameters do. Raises ``TaskError``.
    """
    require(1 <= width <= 4096, "width", width, "it must be from 1 to 4096")
    require(1 <= hidden <= 64, "hidden", hidden, "it must be from 1 to 64")
    require(1 <= expansion <= 16, "expansion", expansion, "it must be from 1 to 16")
    require(2 <= arms <= 32, "arms", arms, "it must be from 2 to 32")
    require(0 <= turns <= 8 and 0 <= noise <= 1, "turns, noise", (turns, noise), "turns 0 to 8, noise 0 to 1")
    sizes = (train_examples, controller_examples, report_examples)
    for name, size in zip(("train_examples", "controller_examples", "report_examples"), sizes, strict=True):
        require(10 <= size <= 1_000_000, name, size, "it must be from 10 to 1,000,000")
    points, labels = _points(sum(sizes), arms, turns, noise)
    train, controller, report = consecutive(points, labels, sizes)
    return Task(
        model=Perceptron(2, width, counts_per_block(branches, hidden, "branches"), expansion, arms),
        train=train,
        controller=controller,
        report=report,
        loss=cross_entropy,
        metrics={"accuracy": accuracy, "loss": cross_entropy},
        metric="accuracy",
        higher_is_better=True,
    )
