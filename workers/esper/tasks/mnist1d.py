"""MNIST-1D (Greydanus and Kobak, 2020): ten noisy, shifted, sheared 40-point signals; a 1-D convolutional host.

The data are generated on the spot by the ``mnist1d`` package, without a download, and kept. The host with its default
size has about 600 parameters; ``branches`` adds the residual branches that a grown host would have.
"""

from __future__ import annotations

import random
from functools import lru_cache
from importlib.metadata import version

import numpy
import torch
from torch import Tensor

from esper.tasks.convnet import ConvNet
from esper.tasks.data import consecutive
from esper.tasks.kept import kept
from esper.tasks.losses import accuracy, counts_per_block, cross_entropy, require
from esper.tasks.task import Task

_DATA_SEED = 20260
_STRIDES = (2, 2, 2)


@lru_cache(maxsize=4)
def signals(examples: int) -> tuple[Tensor, Tensor]:
    """The first so many signals, (examples, 1, 40) float32, and their classes, (examples,) int64; made or kept."""
    made_by = "-".join(f"{package}{version(package)}" for package in ("mnist1d", "numpy", "scipy"))
    found = kept(f"mnist1d-{_DATA_SEED}-{examples}-{made_by}", lambda: _generated(examples))
    return found["signals"], found["labels"]


def _generated(examples: int) -> dict[str, Tensor]:
    # Imported late: the package loads a plotting library, which takes seconds.
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples = -(-examples // 10) * 10
    arguments.train_split = 1.0
    arguments.seed = _DATA_SEED
    python_state, numpy_state = random.getstate(), numpy.random.get_state()  # make_dataset seeds both
    try:
        generated = make_dataset(arguments)
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
    signals = torch.from_numpy(numpy.asarray(generated["x"], dtype=numpy.float32)).unsqueeze(1)
    labels = torch.from_numpy(numpy.asarray(generated["y"], dtype=numpy.int64))
    return {"signals": signals[:examples].contiguous(), "labels": labels[:examples].contiguous()}


def task(
    seed: int,
    *,
    channels: int = 8,
    branches: int | list[int] = 0,
    expansion: int = 1,
    norm: str = "batch",
    train_examples: int = 4000,
    controller_examples: int = 1000,
    report_examples: int = 5000,
) -> Task:
    """Three stride-2 blocks, interface image1d ``(B, channels, 20 | 10 | 5)``; logits ``(B, 10)``.

    ``branches`` is the number of residual branches after each block (one number, or a list of three). The data do not
    depend on ``seed``, the initial parameters do. Raises ``TaskError``.
    """
    sizes = (train_examples, controller_examples, report_examples)
    for name, size in zip(("train_examples", "controller_examples", "report_examples"), sizes, strict=True):
        require(10 <= size <= 1_000_000, name, size, "it must be from 10 to 1,000,000")
    made, labels = signals(sum(sizes))
    train, controller, report = consecutive(made, labels, sizes)
    return Task(
        model=ConvNet(
            1,
            channels,
            _STRIDES,
            counts_per_block(branches, len(_STRIDES), "branches"),
            first_kernel=5,
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
