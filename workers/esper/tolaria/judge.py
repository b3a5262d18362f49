"""The verdict on a seed: the host that has it against the twin that never had it.

Both lines get the same short cool-down on the side (a copy of each trains on with the learning rate falling to zero,
on the same batches and random numbers) and are compared once on the controller split. Without the cool-down the
comparison has no power; with more than one look its error rate would no longer be the one stated.

Statistic: per example, the twin's loss minus the host's, clipped to ±clip so that a few examples can't decide; a
one-sided t test of "the seed helps by more than minimumEffect". With several replicates (cool-downs on other data
orders) the spread between them enters the standard error, so that luck of one order is not taken for an effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from esper.tolaria.line import Line
from esper.tolaria.randomness import epoch_order, mix


@dataclass(frozen=True)
class Verdict:
    """The judge's numbers; ``passed`` is the only thing a decision may use.

    Attributes:
        effect: mean clipped loss difference, positive when the seed helps.
        low, high: its two-sided 95 % interval.
        p_value: one-sided, against ``minimum_effect``.
    """

    passed: bool
    effect: float
    low: float
    high: float
    standard_error: float
    t: float
    p_value: float
    threshold: float
    minimum_effect: float
    examples: int
    replicates: int
    host_loss: float
    twin_loss: float

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return asdict(self)


def cool_down(line: Line, epoch: int, replicate: int, steps: int) -> Tensor:
    """Train a copy of the line with the learning rate falling linearly to zero, and return its losses.

    The line itself is not touched. Copies of the same epoch and replicate see the same batches and random numbers.

    Returns:
        float64 losses of shape (controller examples,).
    """
    side = line.fork()
    side.sync_optimizer()
    side.model.train()
    size = side.spec.training.batch_size * side.spec.training.gradient_accumulation
    per_pass = max(1, len(side.task.train) // size)
    # a cool-down is a stretch of training of its own: its step numbers must not depend on how long the line has run
    side.step = mix(side.spec.seed, "cooldown", epoch, replicate) % (1 << 40) + (1 << 40)
    start_rate = line.last_multiplier
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if step % per_pass == 0:
            order = epoch_order(side.spec.seed, epoch, len(side.task.train), f"cooldown-{replicate}-{step // per_pass}")
        side.train_step(order, step % per_pass, start_rate * (1.0 - step / steps))
    side.unite()
    return side.evaluate(side.task.controller).losses


def compare(
    host: Sequence[Tensor], twin: Sequence[Tensor], *, p_value: float, clip: float, minimum_effect: float = 0.0
) -> Verdict:
    """Compare per-example losses of host and twin, a pair for each replicate.

    Raises:
        ValueError: the two differ in number or shape, or there are fewer than two examples.
    """
    if len(host) != len(twin) or not host or any(a.shape != b.shape for a, b in zip(host, twin, strict=True)):
        raise ValueError("host and twin must have the same replicates over the same examples")
    differences = torch.stack([(b - a).clamp(-clip, clip) for a, b in zip(host, twin, strict=True)]).double()
    replicates, examples = differences.shape
    if examples < 2:
        raise ValueError("a verdict needs at least two examples in the controller split")
    finite = bool(torch.isfinite(differences).all())
    per_example = differences.mean(0)
    effect = float(per_example.mean())
    variance = float(per_example.var()) / examples
    freedom = examples - 1.0
    if replicates > 1:
        between = float(differences.mean(1).var()) / replicates
        # Welch–Satterthwaite for the sum of the two variance terms
        total = variance + between
        spread = variance**2 / (examples - 1) + between**2 / (replicates - 1)
        freedom = total**2 / spread if spread > 0.0 else freedom
        variance = total
    error = math.sqrt(variance)
    t = (effect - minimum_effect) / error if error > 0.0 else math.copysign(math.inf, effect - minimum_effect)
    if effect == minimum_effect:
        t = 0.0
    p = float(stdtr(freedom, -t)) if finite else 1.0
    half = float(stdtrit(freedom, 0.975)) * error
    return Verdict(
        passed=finite and p < p_value and effect > minimum_effect,
        effect=effect, low=effect - half, high=effect + half, standard_error=error, t=t, p_value=p,
        threshold=p_value, minimum_effect=minimum_effect, examples=examples, replicates=replicates,
        host_loss=float(torch.stack(list(host)).mean()), twin_loss=float(torch.stack(list(twin)).mean()),
    )  # fmt: skip
