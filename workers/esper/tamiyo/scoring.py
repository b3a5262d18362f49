"""Which kernel for a slot: what it may bring against what it takes, in units of log loss.

A network's loss falls as a power of its size and as a power of its training steps. A kernel that makes the network
1 + n/N times larger and each step 1 + c times dearer is therefore worth a·ln(1 + n/N) − p·ln(1 + c): ``a`` is
what this run has learned about size in general and about the blueprint, ``p`` the exponent with which this run's loss
now falls with time. Measured latency, memory and risk are compared with the other kernels on offer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.urza.library import KernelRecord

#: Exponent of loss over parameters assumed before a run has learned better.
SIZE_EXPONENT = 0.15
LATENCY_WEIGHT = 0.01
RATIO_WEIGHT = 0.01
MEMORY_WEIGHT = 0.005
RISK_WEIGHT = 0.02


@dataclass(frozen=True, slots=True)
class Scored:
    """A kernel with its score (higher is better) and the terms that make it up."""

    record: KernelRecord
    score: float
    terms: Mapping[str, float]


def _doublings(value: float | None, typical: float) -> float:
    """How many times ``value`` is the double of the typical one; 0 where it was not measured."""
    if value is None or not math.isfinite(value) or value <= 0.0 or typical <= 0.0:
        return 0.0
    return math.log2(value / typical)


def _typical(values: Sequence[float | None]) -> float:
    measured = [value for value in values if value is not None and math.isfinite(value) and value > 0.0]
    return median(measured) if measured else 0.0


def rank(
    records: Sequence[KernelRecord],
    *,
    host_parameters: int,
    host_forward_flops: float,
    calls: int = 1,
    size_exponent: float = SIZE_EXPONENT,
    time_exponent: float = SIZE_EXPONENT,
    fit: Mapping[str, float] | None = None,
) -> list[Scored]:
    """Score kernels of one interface, best first; ties go to the smaller artifact id.

    ``host_forward_flops`` is per sample, like the kernels' own; ``fit`` maps a blueprint to a factor on its expected
    gain (1 where nothing is known).
    """
    latency = _typical([record.latency_ms for record in records])
    memory = _typical([record.memory_mb for record in records])
    scored = []
    for record in records:
        growth = math.log1p(record.parameters / max(1, host_parameters))
        dearer = math.log1p(record.flops * calls / host_forward_flops) if host_forward_flops > 0 else 0.0
        known = (fit or {}).get(record.blueprint, 1.0)
        terms = {
            "capacity": known * size_exponent * growth,
            "compute": -time_exponent * dearer,
            "latency": -LATENCY_WEIGHT * _doublings(record.latency_ms, latency),
            "ratio": -RATIO_WEIGHT * _doublings(record.ratio, 1.0),
            "memory": -MEMORY_WEIGHT * _doublings(record.memory_mb, memory),
            "risk": -RISK_WEIGHT * record.risk,
        }
        scored.append(Scored(record, math.fsum(terms.values()), terms))
    scored.sort(key=lambda one: (-one.score, one.record.artifact_id))
    return scored
