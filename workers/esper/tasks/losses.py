"""Per-example losses and metrics shared by the bundled tasks."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from esper.errors import TaskError


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in nats of logits ``(B, K)`` against classes ``(B,)``; shape ``(B,)``."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1.0 where the largest of the logits ``(B, K)`` is the class ``(B,)``, else 0.0; shape ``(B,)``."""
    return (outputs.argmax(dim=-1) == targets).float()


def token_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per token of logits ``(B, T, K)`` against ``(B, T)``; shape ``(B,)``."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)


def bits_per_token(outputs: Tensor, targets: Tensor) -> Tensor:
    """``token_cross_entropy`` in bits; shape ``(B,)``."""
    return token_cross_entropy(outputs, targets) / math.log(2.0)


def token_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of the tokens whose largest logit is the target; shape ``(B,)``."""
    return (outputs.argmax(dim=-1) == targets).float().mean(1)


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ``TaskError`` naming the parameter, its value and what is allowed, unless ``condition``."""
    if not condition:
        raise TaskError(f"task parameter {name}: {value!r} is not possible; {allowed}")


def counts_per_block(value: int | list[int], blocks: int, name: str) -> list[int]:
    """One count for each block: an int is used for all of them; a list must have ``blocks`` entries, none negative."""
    counts = [value] * blocks if isinstance(value, int) else list(value)
    require(
        len(counts) == blocks and all(isinstance(count, int) and 0 <= count <= 64 for count in counts),
        name,
        value,
        f"give a count from 0 to 64, or a list of {blocks} of them, one for each block",
    )
    return counts


def split(total: int, parts: tuple[int, ...], seed: int) -> list[Tensor]:
    """Disjoint index sets of sizes ``parts`` drawn from ``range(total)``, the same for the same ``seed``."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return [order[end - size : end] for size, end in zip(parts, accumulate(parts), strict=True)]
