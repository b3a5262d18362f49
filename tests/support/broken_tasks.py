"""Tasks that are wrong in the ways users get them wrong."""

from __future__ import annotations

import dataclasses

from torch import nn

import small_tasks
from esper.tasks import Task


def shapes_disagree(seed: int) -> Task:
    """The model wants seven features, the data have four."""
    return dataclasses.replace(small_tasks.noisy(seed), model=nn.Linear(7, 2))


def scalar_loss(seed: int) -> Task:
    """The loss is averaged over the batch."""
    return dataclasses.replace(small_tasks.noisy(seed), loss=nn.functional.cross_entropy)
