"""Mean power of the processor package while something runs, where the machine tells."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["PowerMeter"]

_COUNTER = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


class PowerMeter:
    """Reads the package's energy counter (microjoules) at its start and at :meth:`watts`."""

    def __init__(self, counter: Path = _COUNTER) -> None:
        """Start metering."""
        self._counter = counter
        self._energy = self._read()
        self._time = time.perf_counter()

    def watts(self) -> float | None:
        """Return the mean power since the start, or None where it can't be read or the counter wrapped around."""
        energy, seconds = self._read(), time.perf_counter() - self._time
        if energy is None or self._energy is None or energy < self._energy or seconds <= 0:
            return None
        return (energy - self._energy) / 1e6 / seconds

    def _read(self) -> int | None:
        try:
            return int(self._counter.read_text())
        except (OSError, ValueError):
            return None
