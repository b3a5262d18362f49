"""Where the loss is heading, from few and noisy values.

A training loss falls roughly as a power of the steps done, so its logarithm is a line over the logarithm of time. The
line is fitted with the median of pairwise slopes (Theil 1950), which up to 29 % wild values do not move, and its slope
bounded by Sen's confidence limits (Sen 1968). Losses that are not all positive are fitted without their logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

#: The fit looks at all pairs, so the window is bounded; longer histories are thinned evenly.
MAX_POINTS = 48
MIN_POINTS = 4
#: Standard errors by which the host gets the benefit of the doubt: nine times in ten it falls no faster than forecast.
DOUBT = 1.28


@dataclass(frozen=True, slots=True)
class Trend:
    """A robust line through recent losses.

    ``slope`` is the change of log loss (of the loss itself if ``linear``) per unit of log time; negative is better.
    ``steepest`` is the lowest slope that the scatter leaves likely: what is forecast from it gives the host the benefit
    of the doubt. ``level`` is the fitted loss now, ``now`` the time of the last value in epochs and ``points`` how many
    were fitted.
    """

    slope: float
    steepest: float
    level: float
    now: float
    points: int
    linear: bool

    def at(self, epochs: float) -> float:
        """The loss to expect at time ``epochs``, at best; the present level for times before now."""
        advance = math.log(max(1.0, epochs / self.now))
        slope = min(0.0, self.steepest)
        if self.linear:
            return self.level + slope * advance
        return self.level * math.exp(slope * advance)

    @property
    def exponent(self) -> float:
        """How fast time lowers the loss: the relative fall per unit of log time, never negative."""
        fall = max(0.0, -self.slope)
        if self.linear:
            return fall / abs(self.level) if self.level else 0.0
        return fall

    @property
    def rising(self) -> bool:
        """True if the loss goes up beyond doubt."""
        return self.steepest > 0.0


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
    n = len(xs)
    slopes = sorted((ys[j] - ys[i]) / (xs[j] - xs[i]) for i in range(n) for j in range(i + 1, n))
    slope = median(slopes)
    # Kendall's tau has this standard deviation under no trend; Sen counts it off from the middle of the sorted slopes.
    spread = DOUBT * math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)
    steepest = slopes[max(0, math.floor((len(slopes) - 1 - spread) / 2.0))]
    level = median(y - slope * x for x, y in zip(xs, ys, strict=True)) + slope * xs[-1]
    return Trend(slope, steepest, level if linear else math.exp(level), math.exp(xs[-1]), n, linear)
