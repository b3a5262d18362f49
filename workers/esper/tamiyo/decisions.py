"""The log of decisions: what was ordered or left alone, and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from esper.tamiyo.views import Decision

CAPACITY = 512


class DecisionLog:
    """The last ``capacity`` decisions, oldest first; a decision to do nothing for the same reason is only counted up.

    Two idle decisions are the same if reason and refusals are; the numbers kept are the latest.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._entries: deque[Decision] = deque(maxlen=capacity)

    def add(self, decision: Decision) -> bool:
        """Store a decision; false if it only repeated the last one."""
        last = self._entries[-1] if self._entries else None
        if (
            last is not None
            and not decision.orders
            and not last.orders
            and (decision.reason, decision.refused) == (last.reason, last.refused)
        ):
            self._entries[-1] = replace(
                last, last_epoch=decision.epoch, repeats=last.repeats + 1, numbers=decision.numbers
            )
            return False
        self._entries.append(replace(decision, last_epoch=decision.epoch))
        return True

    @property
    def last(self) -> Decision | None:
        """The latest decision, if any."""
        return self._entries[-1] if self._entries else None

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def state_dict(self) -> dict[str, Any]:
        """All entries as JSON values."""
        return {"entries": [decision.to_dict() for decision in self._entries]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._entries.clear()
        self._entries.extend(Decision.from_dict(entry) for entry in state["entries"])
