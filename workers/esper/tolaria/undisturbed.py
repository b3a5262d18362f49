"""What keeps the rest of the process out of training steps.

Two things take milliseconds from a step at a moment nobody chose. A collection of Python's oldest generation walks
every object there is, which with PyTorch imported are hundreds of thousands; so while steps are made only the young
generations are collected, between two steps, and everything else waits for the end of the epoch. And a background
thread that computes keeps the interpreter's lock for 5 ms each time an operator of the step lets go of it; asked to
hand it back sooner, it takes little from any one step. The interval only counts where threads compete.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 1
"""Generations up to this one are collected between steps."""
EVERY = 50
"""Steps between two of these; few enough that one takes well below a millisecond."""
SWITCH_SECONDS = 5e-5
"""How long a background thread may keep the interpreter's lock while a step waits for it."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within the block nothing is collected but by :func:`collect_young`, and background threads yield quickly; what
    the process had set before is set again after it.
    """
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(min(interval, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


def collect_young(step: int) -> None:
    """Free what young cycles hold, every ``EVERY`` steps."""
    if step % EVERY == 0:
        gc.collect(YOUNG)
