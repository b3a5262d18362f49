"""How long to wait before trying again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from ``first`` seconds up to ``longest``.

    ``tries`` is how many failures in a row are put up with before giving up; a success, or ``healthy`` seconds without
    a failure, starts the count again.
    """

    first: float = 0.1
    longest: float = 10.0
    tries: int = 6
    healthy: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ValueError(
                f"backoff: first is {self.first} s; must be above 0 and at most longest ({self.longest} s)"
            )
        if self.tries < 1 or self.healthy < 0:
            raise ValueError("backoff: tries must be at least 1 and healthy at least 0")

    def wait(self, failures: int) -> float | None:
        """Seconds to wait after this many failures in a row (1 or more); ``None``: give up."""
        if failures >= self.tries:
            return None
        # The exponent is bounded: 2.0 ** 2000 would raise.
        return float(min(self.longest, self.first * 2.0 ** min(failures - 1, 60)))
