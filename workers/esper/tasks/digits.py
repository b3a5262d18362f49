"""scikit-learn's 1,797 handwritten digits, 8x8 pixels; a 2-D convolutional host. No augmentation."""

from __future__ import annotations

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from esper.tasks.convnet import ConvNet
from esper.tasks.data import TensorData
from esper.tasks.losses import accuracy, counts_per_block, cross_entropy, require, split
from esper.tasks.task import Task

_DATA_SEED = 8088
_TRAIN, _CONTROLLER, _REPORT = 900, 300, 597
_STRIDES = (1, 2, 2)


@lru_cache(maxsize=1)
def digit_images() -> tuple[Tensor, Tensor]:
    """All images, float32 ``(1797, 1, 8, 8)`` with mean 0 and deviation 1, and their classes, int64 ``(1797,)``."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).float().view(-1, 1, 8, 8)
    return (pixels - pixels.mean()) / pixels.std(), torch.from_numpy(labels).long()


def digit_splits(images: Tensor, labels: Tensor) -> tuple[TensorData, TensorData, TensorData]:
    """900 to train on, 300 for the controller, 597 for the report; the same for every seed."""
    parts = split(len(images), (_TRAIN, _CONTROLLER, _REPORT), _DATA_SEED)
    train, controller, report = (TensorData(images[part], labels[part]) for part in parts)
    return train, controller, report


def task(
    seed: int, *, channels: int = 4, branches: int | list[int] = 0, expansion: int = 1, norm: str = "batch"
) -> Task:
    """Three blocks, interface image2d ``(B, channels, 8 | 4 | 2, same)``; logits ``(B, 10)``.

    ``branches`` is the number of residual branches after each block (one number, or a list of three). Raises
    ``TaskError``.
    """
    require(1 <= channels <= 512, "channels", channels, "it must be from 1 to 512")
    train, controller, report = digit_splits(*digit_images())
    return Task(
        model=ConvNet(
            2,
            channels,
            _STRIDES,
            counts_per_block(branches, len(_STRIDES), "branches"),
            expansion=expansion,
            norm=norm,
        ),
        train=train,
        controller=controller,
        report=report,
        loss=cross_entropy,
        metrics={"accuracy": accuracy, "loss": cross_entropy},
        metric="accuracy",
        higher_is_better=True,
    )
