"""All randomness of a run, derived from its seed.

Nothing carries a random state from step to step: before each optimizer step the global generator is seeded from
(run seed, step), and each epoch's data order comes from (run seed, epoch). So the twin, a resumed run and a second
process draw the same numbers without exchanging any, and a checkpoint holds no generator state.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1


def mix(*parts: int | str) -> int:
    """A 63-bit integer that depends on every part and on their order (SHA-256 of their length-prefixed text)."""
    digest = hashlib.sha256()
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _splitmix(value: int) -> int:
    """One round of SplitMix64 (Steele, Lea and Flood 2014): cheap enough to run before every step."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def seed_step(stream: int, step: int, cuda: bool = False) -> None:
    """Seed the generators for one optimizer step of the stream (a value of :func:`mix`)."""
    value = _splitmix((stream + step) & _MASK64) & 0xFFFF_FFFF  # torch's CPU generator takes 32 bits
    torch.default_generator.manual_seed(value)
    if cuda:
        torch.cuda.manual_seed_all(value)


def seed_process(seed: int) -> None:
    """Seed everything a task's own code may draw from, at the start of an epoch or before a model is built."""
    torch.manual_seed(seed & 0xFFFF_FFFF)
    np.random.seed(seed & 0xFFFF_FFFF)
    random.seed(seed)


def epoch_order(run_seed: int, epoch: int, examples: int, stream: str = "train") -> Tensor:
    """The order in which an epoch visits the examples.

    Returns:
        An int64 permutation of ``range(examples)``, the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(mix(run_seed, stream, epoch))
    return torch.randperm(examples, generator=generator)
