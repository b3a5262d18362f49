"""Where the loss is heading, from few and noisy values.

A training loss falls roughly as a power of the steps done, so its logarithm is a line over the logarithm of time. The
line is fitted with Theil's median of pairwise slopes (Theil 1950, Sen 1968), which up to 29 % wild values do not move.
Losses that are not all positive are fitted without their logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

#: The fit looks at all pairs, so the window is bounded; longer histories are thinned evenly.
MAX_POINTS = 48
MIN_POINTS = 4


@dataclass(frozen=True, slots=True)
class Trend:
    """A robust line through recent losses.

    ``slope`` is the change of log loss (of the loss itself if ``linear``) per unit of log time; negative is better.
    ``level`` is the fitted loss now, ``spread`` the median absolute deviation around the line in the fitted scale,
    ``now`` the time of the last value in epochs and ``points`` how many were fitted.
    """

    slope: float
    level: float
    spread: float
    now: float
    points: int
    linear: bool

    def at(self, epochs: float) -> float:
        """The loss to expect at time ``epochs``; the present level for times before now."""
        advance = math.log(max(1.0, epochs / self.now))
        if self.linear:
            return self.level + self.slope * advance
        return self.level * math.exp(self.slope * advance)

    @property
    def exponent(self) -> float:
        """How fast time lowers the loss: the relative fall per unit of log time, never negative."""
        if self.linear:
            return max(0.0, -self.slope / abs(self.level)) if self.level else 0.0
        return max(0.0, -self.slope)

    @property
    def rising(self) -> bool:
        """True if the loss goes up by more over the window's last doubling of time than it scatters."""
        return self.slope * math.log(2.0) > max(self.spread, 1e-9)


def fit(losses: Sequence[float], start: int = 0) -> Trend | None:
    """Fit the values from index ``start`` on; ``None`` if fewer than four of them are finite.

    The time of value i is i + 1 epochs. Costs O(min(n, 48)²).
    """
    points = [(math.log(i + 1.0), loss) for i, loss in enumerate(losses) if i >= start and math.isfinite(loss)]
    if len(points) < MIN_POINTS:
        return None
    if len(points) > MAX_POINTS:
        stride = (len(points) - 1) / (MAX_POINTS - 1)
        points = [points[round(i * stride)] for i in range(MAX_POINTS)]
    linear = any(loss <= 0.0 for _, loss in points)
    xs = [x for x, _ in points]
    ys = [y if linear else math.log(y) for _, y in points]
    slopes = [(ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(len(xs)) for j in range(i + 1, len(xs))]
    slope = median(slopes)
    intercept = median(y - slope * x for x, y in zip(xs, ys, strict=True))
    spread = median(abs(y - slope * x - intercept) for x, y in zip(xs, ys, strict=True))
    level = intercept + slope * xs[-1]
    return Trend(slope, level if linear else math.exp(level), spread, math.exp(xs[-1]), len(points), linear)
