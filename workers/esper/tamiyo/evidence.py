"""What a run learns about growing from its own verdicts.

A kernel that makes each step 1 + r times as dear is expected to lower the log loss by κ·b·ln(1+r) in the end, where b
is the host's own exponent of loss over steps (see ``payoff``). The run starts from ``LEVERAGE``, counted as one
observation, and takes the geometric mean with the κ each verdict implies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: κ assumed before a run has learned better: what was measured on small networks for signals and vectors; on a
#: character Transformer it was 1. Hoping too much costs one trial, which the verdict corrects; hoping too little is
#: never found out.
LEVERAGE = 2.0
_LOWEST, _HIGHEST = 0.05, 8.0


class Evidence:
    """Counts verdicts per blueprint and estimates κ, the worth of compute put into size over compute put into steps."""

    def __init__(self) -> None:
        self._logs = 0.0
        self._observations = 0
        self._judged: dict[str, list[int]] = {}

    @property
    def leverage(self) -> float:
        """The κ to expect."""
        return math.exp((math.log(LEVERAGE) + self._logs) / (1 + self._observations))

    def verdict(
        self, blueprint: str, *, promoted: bool, effect: float | None, loss: float | None, expected: float
    ) -> None:
        """Learn from one verdict.

        ``effect`` is how much lower the controller loss was than the twin's, ``loss`` the twin's level, ``expected``
        the fall of log loss that κ = 1 would have brought by then. A culled seed without a measured effect counts as
        none.
        """
        kept, judged = self._judged.get(blueprint, [0, 0])
        self._judged[blueprint] = [kept + int(promoted), judged + 1]
        if effect is None or loss is None or not loss > 0.0:
            if promoted:
                return
            effect, loss = 0.0, 1.0
        if expected <= 0.0:
            return
        share = min(max(effect / loss, 0.0), 0.999)
        self._logs += math.log(min(max(-math.log1p(-share) / expected, _LOWEST), _HIGHEST))
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
