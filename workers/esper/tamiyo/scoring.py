"""Which kernel for a slot: what it may bring against what it takes, in units of log loss.

The main terms are those of ``payoff``: what the larger network should bring, and what a trial of it costs. Measured
latency, memory and ratio are compared with the other kernels on offer, so that among equals the one that runs best
wins, and of two that run alike the less risky.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from esper.tamiyo.evidence import Belief, Evidence
from esper.tamiyo.payoff import EXAMPLE_SPREAD, EXAMPLES, LEAST_EXPONENT, Sight, weigh

if TYPE_CHECKING:
    from esper.tamiyo.cost import CostModel
    from esper.tamiyo.views import RunView, SlotView
    from esper.urza.library import KernelRecord

LATENCY_WEIGHT = 0.01
RATIO_WEIGHT = 0.01
MEMORY_WEIGHT = 0.005
RISK_WEIGHT = 0.02
#: What the next kernel is worth of one in a network that has not grown, for each that was kept: measured verdicts on a
#: second kernel were a third of those on the first.
NEXT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Scored:
    """A kernel with its score (higher is better) and the terms that make it up."""

    record: KernelRecord
    score: float
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Lessons:
    """What this run has taught: its verdicts, the exponent as the trend is now, how fine the judge sees, and how many
    kernels were kept."""

    evidence: Evidence = field(default_factory=Evidence)
    exponent: float = LEAST_EXPONENT
    sight: Sight = field(default_factory=lambda: Sight(EXAMPLE_SPREAD / math.sqrt(EXAMPLES), None))
    kept: int = 0

    def of(self, slot: str, blueprint: str) -> Belief:
        """What to believe of κ for a blueprint in a slot."""
        return self.evidence.belief(slot, blueprint).scaled(self.discount)

    @property
    def discount(self) -> float:
        """What a kernel is worth now of what it would be worth had none been kept."""
        return NEXT_SHARE**self.kept


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
    view: RunView,
    slot: SlotView,
    costs: CostModel,
    lessons: Lessons,
    reserved: float = 0.0,
) -> list[Scored]:
    """Score kernels for a slot, best first; ties go to the smaller artifact id. ``reserved`` FLOPs are promised."""
    latency = _typical([record.latency_ms for record in records])
    memory = _typical([record.memory_mb for record in records])
    scored = []
    for record in records:
        cost = costs.germination(view, slot, record, reserved=reserved)
        payoff = weigh(view, costs, cost, lessons.exponent, lessons.of(slot.id, record.blueprint), lessons.sight)
        terms = {
            "gain": payoff.gain,
            "price": -payoff.price,
            "latency": -LATENCY_WEIGHT * _doublings(record.latency_ms, latency),
            "ratio": -RATIO_WEIGHT * _doublings(record.ratio, 1.0),
            "memory": -MEMORY_WEIGHT * _doublings(record.memory_mb, memory),
            "risk": -RISK_WEIGHT * record.risk,
        }
        scored.append(Scored(record, math.fsum(terms.values()), terms))
    scored.sort(key=lambda one: (-one.score, one.record.artifact_id))
    return scored
