"""Kills and pauses the stack's programs at random moments, drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from xmlrpc.client import Fault

from tests.soak.part import Part

from stack import Stack

UP_SECONDS = 180.0
"""How long everything may take to work again once nothing is killed any more."""


class Faults(Part):
    """Does harm until it is told to stop.

    Args:
        programs: which may be killed; each is killed as often as the others, in an order that is drawn.
        gap: seconds between two kills, on average.
        pause: seconds the broker is stopped (SIGSTOP) once, in the middle; 0 leaves that out.
    """

    def __init__(self, stack: Stack, programs: Sequence[str], *, seed: int, gap: float, pause: float) -> None:
        super().__init__("faults")
        self._stack, self._programs, self._gap, self._pause = stack, list(programs), gap, pause
        self._draw = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.paused = 0.0
        self.down: dict[str, float] = {}
        """The longest time each program took to work again, in seconds, with whatever else was killed meanwhile."""

    def _run(self) -> None:
        order: list[str] = []
        first = True
        while not self._stop.wait(self._draw.expovariate(1 / self._gap)):
            if not order:
                order = self._draw.sample(self._programs, len(self._programs))
                if not first and self._pause and not self.paused:
                    self._hold("pulsar")
                first = False
            self._kill(order.pop())
        deadline = time.monotonic() + UP_SECONDS
        for program in self._programs:
            while not self._stack.ready(program):
                if time.monotonic() > deadline:
                    self.problems.append(f"{program}: did not work again within {UP_SECONDS:g} s of the last kill")
                    break
                time.sleep(0.2)

    def _kill(self, program: str) -> None:
        try:
            pid = self._stack.pid(program)
        except (OSError, Fault) as error:
            self.problems.append(f"{program}: the supervisor does not answer: {error}")
            return
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[program] += 1
        # Others are killed while this one is coming back, but not this one again.
        threading.Thread(target=self._await, args=(program,), daemon=True).start()

    def _hold(self, program: str) -> None:
        pid = self._stack.pid(program)
        if not pid:
            return
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        self._stop.wait(self._pause)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.paused = time.monotonic() - began

    def _await(self, program: str) -> None:
        began = time.monotonic()
        while not self._stack.ready(program):
            if self._stop.wait(0.2):
                return
        self.down[program] = max(self.down.get(program, 0.0), time.monotonic() - began)
