"""What a slot's activations look like: variance, rms, dead units, correlation between features.

Taken only inside ``SeedBank.observing()``. Sums are kept in float64 and in the order of the calls, so that the same
batches give the same numbers; a dormant slot costs a training step nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SAMPLED_FEATURES = 64
_SAMPLED_ROWS = 256
_CONSTANT = 1e-7


@dataclass(frozen=True)
class SlotStatistics:
    """Activation statistics of a slot.

    ``variance``: mean over features of the variance over examples and positions. ``dead_fraction``: share of features
    whose value never changed. ``correlation``: mean absolute Pearson correlation over pairs of (at most 64, evenly
    spaced) features, 0 with fewer than two live ones. ``rms``: root mean square of all values. ``count``: rows
    (examples × positions) seen.
    """

    variance: float
    dead_fraction: float
    correlation: float
    rms: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """Plain numbers by field name."""
        return {
            "variance": self.variance,
            "dead_fraction": self.dead_fraction,
            "correlation": self.correlation,
            "rms": self.rms,
            "count": float(self.count),
        }


class Accumulator:
    """Sums over the activations of one slot with ``width`` features."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.sums = torch.zeros(2, width, dtype=torch.float64)
        self.low = torch.full((width,), torch.inf, dtype=torch.float64)
        self.high = torch.full((width,), -torch.inf, dtype=torch.float64)
        picked = min(width, _SAMPLED_FEATURES)
        self.picked = torch.arange(picked) * width // picked
        self.pair_rows = 0
        self.pair_sums = torch.zeros(picked, dtype=torch.float64)
        self.pair_products = torch.zeros(picked, picked, dtype=torch.float64)

    @torch.no_grad()
    def add(self, activation: Tensor, feature_dim: int) -> None:
        """Add one activation; all dimensions but ``feature_dim`` are rows. An empty one adds nothing."""
        rows = activation.detach().movedim(feature_dim, -1).reshape(-1, self.width).to("cpu", torch.float64)
        if rows.shape[0] == 0:
            return
        self.count += rows.shape[0]
        self.sums[0] += rows.sum(dim=0)
        self.sums[1] += (rows * rows).sum(dim=0)
        self.low = torch.minimum(self.low, rows.amin(dim=0))
        self.high = torch.maximum(self.high, rows.amax(dim=0))
        stride = max(1, rows.shape[0] // _SAMPLED_ROWS)
        sample = rows[::stride][:_SAMPLED_ROWS][:, self.picked]
        self.pair_rows += sample.shape[0]
        self.pair_sums += sample.sum(dim=0)
        self.pair_products += sample.T @ sample

    def to_tensor(self) -> Tensor:
        """All sums as one flat float64 tensor."""
        counts = torch.tensor([self.count, self.pair_rows], dtype=torch.float64)
        parts = (counts, self.sums, self.pair_sums, self.pair_products, self.low, self.high)
        return torch.cat([part.reshape(-1) for part in parts])

    def take(self, stacked: Tensor) -> None:
        """Become what several accumulators of the same slot have seen together: their ``to_tensor()``, stacked."""
        summed, picked = torch.zeros_like(stacked[0]), len(self.picked)
        for part in stacked:
            summed += part
        counts, sums, pair_sums, products, _ = torch.split(
            summed, [2, 2 * self.width, picked, picked * picked, 2 * self.width]
        )
        self.count, self.pair_rows = int(counts[0]), int(counts[1])
        self.sums, self.pair_sums = sums.view(2, self.width), pair_sums
        self.pair_products = products.view(picked, picked)
        low, high = torch.split(stacked[:, -2 * self.width :], self.width, dim=1)
        self.low, self.high = low.amin(dim=0), high.amax(dim=0)

    def result(self) -> SlotStatistics:
        """The statistics so far; zeros if nothing was seen."""
        if self.count == 0:
            return SlotStatistics(0.0, 0.0, 0.0, 0.0, 0)
        mean = self.sums[0] / self.count
        power = self.sums[1] / self.count
        variance = (power - mean * mean).clamp_min(0.0)
        spread = self.high - self.low
        scale = torch.maximum(self.high.abs(), self.low.abs()).clamp_min(1.0)
        return SlotStatistics(
            variance=float(variance.mean()),
            dead_fraction=float((spread <= _CONSTANT * scale).double().mean()),
            correlation=self._correlation(),
            rms=float(power.mean().sqrt()),
            count=self.count,
        )

    def _correlation(self) -> float:
        mean = self.pair_sums / self.pair_rows
        covariance = self.pair_products / self.pair_rows - torch.outer(mean, mean)
        variance = covariance.diagonal().clamp_min(0.0)
        alive = variance > _CONSTANT * _CONSTANT
        live = int(alive.sum())
        if live < 2:
            return 0.0
        kept = covariance[alive][:, alive]
        deviation = variance[alive].sqrt()
        correlation = (kept / torch.outer(deviation, deviation)).abs().clamp(max=1.0)
        return float((correlation.sum() - correlation.diagonal().sum()) / (live * (live - 1)))


def mean_square(tensor: Tensor) -> Tensor:
    """Mean of squares as a 0-dim float64 tensor without a graph."""
    flat = tensor.detach().reshape(-1)
    norm: Tensor = torch.linalg.vector_norm(flat, dtype=torch.float64)
    return norm.square() / max(1, flat.numel())
