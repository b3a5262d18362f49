"""How likely a kernel is to do harm, from 0 to 1, out of what was measured; and how it is to be handled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.urabrask.correctness import Correctness

__all__ = ["BANDS", "Risk", "assess"]

#: Upper end of each band, its name, and how kernels in it are handled.
BANDS: tuple[tuple[float, str, str], ...] = (
    (0.25, "low", "standard"),
    (0.50, "medium", "monitored"),
    (0.75, "high", "approval"),
    (1.01, "quarantined", "refused"),
)


@dataclass(frozen=True)
class Risk:
    """The risk, what it is made of, its band and the handling class that follows."""

    risk: float
    parts: dict[str, float]
    band: str
    handling: str


def assess(prior: float, found: Correctness, *, compiled: bool) -> Risk:
    """Combine independent reasons for harm: 1 − Π(1 − part).

    ``prior`` is the catalogue's. ``precision`` grows from 0 to 0.3 while the error nears its tolerance;
    ``instability`` is 0.3 for a kernel that loses its accuracy on very small or very large inputs; ``growth`` counts
    0.1 for each power of ten by which the output outgrows the input; ``start`` is 0.3 for a kernel that moves the host
    the moment it is blended in; ``compiled`` is 0.03 for code that PyTorch's own tests never saw.
    """
    error = max(found.output_error, found.gradient_error, 1e-30)
    headroom = math.log10(max(found.tolerance / error, 1.0))
    excess = math.log10(max(found.growth, 1.0)) - 1.0
    parts = {
        "prior": min(max(prior, 0.0), 1.0),
        "precision": 0.3 * max(0.0, 1.0 - headroom / 2.0),
        "instability": 0.0 if found.stable else 0.3,
        "growth": min(0.5, 0.1 * max(0.0, excess)),
        "start": 0.0 if found.zero_at_start else 0.3,
        "compiled": 0.03 if compiled else 0.0,
    }
    risk = 1.0 if found.problems else round(1.0 - math.prod(1.0 - part for part in parts.values()), 4)
    band, handling = next((band, handling) for limit, band, handling in BANDS if risk < limit)
    return Risk(risk, {name: round(part, 4) for name, part in parts.items()}, band, handling)
