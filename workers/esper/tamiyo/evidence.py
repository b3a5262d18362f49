"""What a run learns about growing from its own verdicts.

A kernel that makes each step 1 + r times as dear is worth κ·b·ln(1+r) of log loss in the end, where b is the exponent
of the loss over steps (see ``payoff``). Each verdict of the judge measures κ, with an error. What it says of the run as
a whole, of its slot and of its blueprint is told apart by a normal model with those three parts: κ of a slot and a
blueprint is a common value, plus what is peculiar to the slot, plus what is peculiar to the blueprint. A belief is the
mean and the deviation that this model leaves after all verdicts. So a cull tells most about the same kernel in the same
slot, less about either alone, and something about everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: κ expected before a verdict: a little under the 2.7 that final losses gave on small networks for signals and for
#: images; on a character Transformer it was between 0 and 1.
HOPE = 2.5
#: Standard deviations of that hope over runs, over the slots of a run and over blueprints. Together 1.2: measured κ ran
#: from 0 to 3 over tasks, and from 0.5 to 2.5 over the slots of one network.
RUN_SPREAD, SLOT_SPREAD, BLUEPRINT_SPREAD = 0.85, 0.7, 0.5
#: How far the κ of a verdict is from that of the whole run, apart from the judge's own error: verdicts come early.
EARLY_ERROR = 1.0
#: A verdict without a measured effect counts as one of zero, with this error.
UNMEASURED_ERROR = 1.4
#: One verdict never counts for less or more than this.
LOWEST, HIGHEST = -1.0, 5.0
#: A trial of which less was expected, in log loss, can't be measured.
LEAST_EXPECTED = 1e-6
#: So many verdicts are kept, the latest: what is older says little of the network as it is now.
MOST = 24


@dataclass(frozen=True, slots=True)
class Belief:
    """What is expected of κ: its mean and its standard deviation."""

    mean: float = HOPE
    spread: float = math.hypot(RUN_SPREAD, SLOT_SPREAD, BLUEPRINT_SPREAD)

    def scaled(self, factor: float) -> Belief:
        """The belief about ``factor`` times κ."""
        return Belief(self.mean * factor, self.spread * factor)


@dataclass(frozen=True, slots=True)
class Observation:
    """The κ that one verdict implies, with the variance of its error."""

    slot: str
    blueprint: str
    value: float
    variance: float


class Evidence:
    """Keeps what verdicts implied and tells what to believe of a slot and a blueprint.

    ``resolution`` is the judge's standard error over the loss, as last seen; ``None`` before the first verdict.
    """

    def __init__(self) -> None:
        self.resolution: float | None = None
        self._seen: list[Observation] = []
        self._inverse: list[list[float]] = []

    @property
    def slots(self) -> frozenset[str]:
        """Slots with a verdict of their own; all others are believed in alike."""
        return frozenset(one.slot for one in self._seen)

    def belief(self, slot: str = "", blueprint: str = "") -> Belief:
        """What to expect of κ there; costs O(n²) in the number of verdicts kept."""
        near = [_shared(slot, blueprint, one) for one in self._seen]
        weights = [math.fsum(a * b for a, b in zip(row, near, strict=True)) for row in self._inverse]
        mean = HOPE + math.fsum(w * (one.value - HOPE) for w, one in zip(weights, self._seen, strict=True))
        known = math.fsum(w * n for w, n in zip(weights, near, strict=True))
        return Belief(mean, math.sqrt(max(0.0, Belief().spread ** 2 - known)))

    def verdict(
        self,
        slot: str,
        blueprint: str,
        *,
        promoted: bool,
        expected: float,
        effect: float | None = None,
        error: float | None = None,
        loss: float | None = None,
    ) -> None:
        """Learn from one verdict.

        ``expected`` is the fall of log loss that κ = 1 would have brought by then, ``effect`` how much lower the
        controller loss was than the twin's, ``error`` the standard error of that, ``loss`` the twin's level. A culled
        seed without a measured effect counts as one that brought nothing; a promoted one then teaches nothing.
        """
        if expected < LEAST_EXPECTED:
            return
        if effect is None or loss is None or not loss > 0.0:
            if promoted:
                return
            value, variance = 0.0, UNMEASURED_ERROR**2
        else:
            relative = min((error or 0.0) / loss, 1.0)
            if relative > 0.0:
                self.resolution = relative
            value = min(max(-math.log1p(-min(effect / loss, 0.999)) / expected, LOWEST), HIGHEST)
            variance = EARLY_ERROR**2 + (relative / expected) ** 2
        self._seen = [*self._seen, Observation(slot, blueprint, value, variance)][-MOST:]
        self._solve()

    def _solve(self) -> None:
        covariance = [
            [_shared(a.slot, a.blueprint, b) + (a.variance if a is b else 0.0) for b in self._seen] for a in self._seen
        ]
        self._inverse = np.linalg.inv(np.array(covariance)).tolist() if covariance else []

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON values."""
        return {
            "resolution": self.resolution,
            "seen": [[one.slot, one.blueprint, one.value, one.variance] for one in self._seen],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.resolution = None if state["resolution"] is None else float(state["resolution"])
        self._seen = [Observation(str(s), str(b), float(value), float(var)) for s, b, value, var in state["seen"]]
        self._solve()


def _shared(slot: str, blueprint: str, one: Observation) -> float:
    """The covariance of κ there and where ``one`` was seen."""
    same_slot, same_blueprint = slot == one.slot, blueprint == one.blueprint
    return RUN_SPREAD**2 + same_slot * SLOT_SPREAD**2 + same_blueprint * BLUEPRINT_SPREAD**2
