"""What a run learns about growing from its own verdicts.

Loss falls as a power of size, with an exponent that differs widely between tasks (measured: 0.06 for a character
Transformer, 0.1 to 0.9 for a small convolutional network, by place). The run starts from ``SIZE_EXPONENT``, counted
as one observation, and takes the geometric mean with the exponent each verdict implies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Exponent of loss over parameters assumed before a run has learned better.
SIZE_EXPONENT = 0.1
_LOWEST, _HIGHEST = 0.01, 1.0


class Evidence:
    """Counts verdicts per blueprint and estimates the exponent of loss over size."""

    def __init__(self) -> None:
        self._logs = 0.0
        self._observations = 0
        self._judged: dict[str, list[int]] = {}

    @property
    def exponent(self) -> float:
        """The exponent of loss over parameters to expect."""
        return math.exp((math.log(SIZE_EXPONENT) + self._logs) / (1 + self._observations))

    def verdict(
        self, blueprint: str, *, promoted: bool, effect: float | None, loss: float | None, growth: float
    ) -> None:
        """Learn from one verdict.

        ``effect`` is how much lower the controller loss was than the twin's, ``loss`` the twin's level, ``growth`` the
        ratio of parameters with the seed to those without. A culled seed without a measured effect counts as none.
        """
        kept, judged = self._judged.get(blueprint, [0, 0])
        self._judged[blueprint] = [kept + int(promoted), judged + 1]
        if effect is None or loss is None or not loss > 0.0:
            if promoted:
                return
            effect, loss = 0.0, 1.0
        if growth <= 1.0:
            return
        share = min(max(effect / loss, 0.0), 0.999)
        implied = -math.log1p(-share) / math.log(growth)
        self._logs += math.log(min(max(implied, _LOWEST), _HIGHEST))
        self._observations += 1

    def fit(self) -> dict[str, float]:
        """For each judged blueprint, a factor on its expected gain: Laplace's share of its seeds that were kept."""
        return {name: (kept + 1.0) / (judged + 1.0) for name, (kept, judged) in self._judged.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON values."""
        return {"logs": self._logs, "observations": self._observations, "judged": dict(self._judged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._logs = float(state["logs"])
        self._observations = int(state["observations"])
        self._judged = {str(name): [int(value) for value in counts] for name, counts in state["judged"].items()}
