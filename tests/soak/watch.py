"""Memory of the stack's programs over time: is it flat?"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.soak.part import Part

from stack import Stack

EVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Memory:
    """Memory of a program and its children, in MB: the median, and the peaks before and in the last third of the time.

    Programs are killed and so begin again with little: what they have in between says nothing, but peaks would rise.
    """

    median: float
    before: float
    last: float
    samples: int


class Watch(Part):
    """Writes down how much memory each program has, with its children."""

    def __init__(self, stack: Stack, programs: tuple[str, ...], extra: dict[str, int] | None = None) -> None:
        super().__init__("watch")
        self._stack, self._programs, self._extra = stack, programs, dict(extra or {})
        self._seen: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def seen(self) -> dict[str, Memory]:
        """What was seen, by program."""
        return {name: summary([mb for _, mb in seen]) for name, seen in self._seen.items() if len(seen) >= 3}

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(EVERY_SECONDS):
            pids = {entry["name"]: entry["pid"] for entry in self._stack.status() if entry["pid"]} | self._extra
            for name in (*self._programs, *self._extra):
                if name in pids and (found := resident(pids[name])):
                    self._seen[name].append((time.monotonic() - began, found))


def resident(pid: int) -> float:
    """Memory of a process and its children in MB, pages they share counted once; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(_proportional(each.pid) for each in [process, *process.children(recursive=True)]) / 1e3
    except psutil.Error:
        return 0.0


def _proportional(pid: int) -> float:
    """The kernel's count of a process's pages in KB, each divided by how many processes have it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0  # ended since it was listed
    return next((float(line.split()[1]) for line in lines if line.startswith("Pss:")), 0.0)


def summary(samples: list[float]) -> Memory:
    """Median and peaks of memory over time."""
    third = max(1, len(samples) // 3)
    return Memory(statistics.median(samples), max(samples[:-third] or samples), max(samples[-third:]), len(samples))
