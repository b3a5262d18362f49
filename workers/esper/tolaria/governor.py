"""The governor: notices that training went wrong and says so; the trainer rolls back.

It looks at losses, parameters, the seed state's checksum and the time a step takes. A spike is judged against a
robust scale (median and median absolute deviation of the recent smoothed losses), since a mean would be dragged
along by the very values it should catch.
"""

from __future__ import annotations

import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from esper.errors import NumericalFault, StepTimeout

WINDOW = 200
"""Steps that the robust scale is taken over."""
SMOOTH = 16
"""Steps whose median is compared: a few hard batches are no spike."""
MINIMUM_HISTORY = 40
"""Steps before a spike can be told from the first descent."""
MARGIN = 1.5
"""A spike is also above this multiple of anything in the window: losses have heavy tails a robust scale ignores."""
_MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation for a normal distribution."""


class Governor:
    """Checks each step and each epoch of a line.

    Args:
        loss_spike: how many robust standard deviations above the median count as a spike.
        step_timeout: seconds after which a step counts as hung.
    """

    def __init__(self, loss_spike: float, step_timeout: float) -> None:
        self.loss_spike = loss_spike
        self.step_timeout = step_timeout
        self._smooth: deque[float] = deque(maxlen=WINDOW)
        self._recent: deque[float] = deque(maxlen=SMOOTH)
        self._began = time.monotonic()

    def check_step(self, step: int, loss: float) -> None:
        """Judge one step's loss.

        Raises:
            NumericalFault: not finite, or the smoothed loss is a spike.
            StepTimeout: the step took longer than allowed.
        """
        took, self._began = time.monotonic() - self._began, time.monotonic()
        if took > self.step_timeout:
            raise StepTimeout(
                f"step {step} took {took:.1f} s; spec.governor.stepTimeoutSeconds is {self.step_timeout:g}"
            )
        if not math.isfinite(loss):
            raise NumericalFault(f"the training loss became {loss} at step {step}")
        self._recent.append(loss)
        if len(self._recent) < SMOOTH:
            return
        smooth = statistics.median(self._recent)
        if len(self._smooth) >= MINIMUM_HISTORY:
            middle = statistics.median(self._smooth)
            spread = _MAD_TO_SIGMA * statistics.median(abs(value - middle) for value in self._smooth)
            limit = max(middle + self.loss_spike * max(spread, 0.05 * abs(middle), 1e-6), MARGIN * max(self._smooth))
            if smooth > limit:
                raise NumericalFault(
                    f"loss spike at step {step}: the median of the last {SMOOTH} steps is {smooth:.4g}, "
                    f"usually {middle:.4g}, limit {limit:.4g} (spec.governor.lossSpike {self.loss_spike:g})"
                )
        self._smooth.append(smooth)

    def begin_epoch(self) -> None:
        """Start the step clock; evaluation and checkpoints between epochs are no steps."""
        self._began = time.monotonic()

    @staticmethod
    def check_tensors(named: Iterable[tuple[str, Tensor]]) -> None:
        """Check that parameters and buffers are finite.

        Raises:
            NumericalFault: naming the first that is not.
        """
        for name, value in named:
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NumericalFault(f"{name} holds values that are not finite")

    def to_dict(self) -> dict[str, Any]:
        """The memory of losses, as JSON."""
        return {"smooth": list(self._smooth), "recent": list(self._recent)}

    def load(self, data: Mapping[str, Any]) -> None:
        """Take the memory of losses from :meth:`to_dict`."""
        self._smooth = deque(data["smooth"], maxlen=WINDOW)
        self._recent = deque(data["recent"], maxlen=SMOOTH)


class Watchdog:
    """Ends the process when a step never returns: a kernel that hangs can't be interrupted from Python.

    The run is left resumable (its checkpoints are whole); stacks of all threads go to standard error.
    """

    EXIT_STATUS = 3

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._beat = time.monotonic()
        self._armed = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """A step was finished."""
        self._beat = time.monotonic()

    def arm(self, on: bool) -> None:
        """Watch, or stop watching between epochs."""
        self._beat, self._armed = time.monotonic(), on

    def close(self) -> None:
        """Stop for good."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self.limit / 4)):
            if self._armed and time.monotonic() - self._beat > self.limit:
                print(
                    f"esper: a training step has not returned for {self.limit:g} s; ending the process. "
                    "The last checkpoint is whole: resume with --resume.",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                faulthandler.dump_traceback(all_threads=True)
                os._exit(self.EXIT_STATUS)
