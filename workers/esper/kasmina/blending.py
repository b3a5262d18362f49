"""How a seed's branch joins the host: the two blends and the schedules of their factor alpha.

``Residual``: out = u + α·s(u), ``Convex``: out = (1−α)·u + α·s(u). Both give exactly u at α = 0.
"""

from __future__ import annotations

import math

from torch import Tensor

from leyline.resources.enums import AlphaSchedule, Blend

__all__ = ["AlphaSchedule", "Blend", "alpha_at", "blend"]


_SIGMOID_STEEPNESS = 10.0


def alpha_at(schedule: AlphaSchedule, progress: float) -> float:
    """Alpha for a progress in [0, 1]; monotone, exactly 0 at 0 and exactly 1 at 1.

    ``Linear``: p; ``Cosine``: (1 − cos πp)/2; ``Sigmoid``: the logistic curve of steepness 10 centred at ½, stretched
    so that its ends are met exactly.
    """
    if progress <= 0.0:
        return 0.0
    if progress >= 1.0:
        return 1.0
    if schedule is AlphaSchedule.LINEAR:
        return progress
    if schedule is AlphaSchedule.COSINE:
        return (1.0 - math.cos(math.pi * progress)) / 2.0
    low = _logistic(-_SIGMOID_STEEPNESS / 2.0)
    return (_logistic(_SIGMOID_STEEPNESS * (progress - 0.5)) - low) / (1.0 - 2.0 * low)


def blend(kind: Blend, host: Tensor, branch: Tensor, alpha: Tensor | None) -> Tensor:
    """Join the branch to the host's activation (same shape and dtype).

    ``alpha`` is a 0-dim tensor, or None for exactly 1: then nothing is multiplied.
    """
    if alpha is None:
        # a copy: an in-place operation of the host after the slot must not reach what the kernel saved for its backward
        return host + branch if kind is Blend.RESIDUAL else branch.clone()
    if kind is Blend.RESIDUAL:
        return host + alpha * branch
    return (1 - alpha) * host + alpha * branch


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))
