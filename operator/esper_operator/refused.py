"""What the outside would not do for a plan."""

from __future__ import annotations

from esper_operator.reasons import Reason


class Refused(Exception):
    """A request was refused as it is: by whom and why is ``reason``, ``message`` is in its words."""

    def __init__(self, what: str, message: str, reason: Reason = Reason.REFUSED) -> None:
        super().__init__(f"{what}: {message}")
        self.what, self.message, self.reason = what, message, reason
