"""What a soak found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GROWTH = 1.25
"""The peak of a program's memory in the last third of the time, against that before, that still counts as flat."""
GROWTH_MB = 40.0
"""And what may be added in any case: few are measured at the moment of their peak."""


@dataclass(frozen=True)
class Report:
    """See the fields; times in seconds, memory in MB."""

    seconds: float
    seed: int
    date: str
    kills: Mapping[str, int]
    broker_paused: float
    longest_down: Mapping[str, float]
    asked: int
    verdicts: Mapping[str, int]
    settled_after: float
    refused_meanwhile: int
    runs: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    dead_letters: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def swollen(self) -> list[str]:
        """Programs whose memory grew."""
        return [
            f"{name}: {seen['before']:.0f} MB at most, then {seen['last']:.0f} MB in the last third"
            for name, seen in self.memory.items()
            if seen["last"] > GROWTH * seen["before"] and seen["last"] > seen["before"] + GROWTH_MB
        ]

    @property
    def well(self) -> bool:
        """Whether nothing was lost, doubled or dangling, and memory was flat."""
        return not self.problems and not self.swollen

    def text(self) -> str:
        """For a terminal."""
        return "\n".join(line.replace("|", " ").strip() for line in self._lines() if "---" not in line)

    def page(self) -> str:
        """The same as a page of the documentation."""
        head = [
            "# Soak", "",
            "Written by `python -m tests.soak --write` ([what it does](../../tests/soak/__main__.py)); raw figures in",
            "[soak.json](soak.json).", "",
        ]  # fmt: skip
        return "\n".join([*head, *self._lines()]) + "\n"

    def _lines(self) -> list[str]:
        verdicts = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items())) or "none"
        lines = [
            f"{self.date} UTC, seed {self.seed}: {self.seconds:.0f} s of harm, {sum(self.kills.values())} kills, "
            f"the broker stopped for {self.broker_paused:.0f} s.",
            "",
            f"- Kernels asked for: {self.asked}; verdicts: {verdicts}; the last one {self.settled_after:.0f} s after "
            "the harm ended.",
            f"- Questions that found library or bus away and were asked again: {self.refused_meanwhile}.",
            *(f"- Training runs: {count} {name}." for name, count in self.runs.items()),
            f"- Dead letters: {self.dead_letters}.",
            f"- Lost, doubled, dangling: {len(self.problems) or 'nothing'}.",
            *(f"  - {problem}" for problem in self.problems),
            f"- Memory: {'flat' if not self.swollen else 'grew: ' + '; '.join(self.swollen)}.",
            "",
            "| program | kills | longest until it worked again | memory, median | peak before the last third | in it |",
            "| --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for name in sorted({*self.kills, *self.memory}):
            seen = self.memory.get(name)
            memory = [f"{seen[key]:.0f} MB" for key in ("median", "before", "last")] if seen else ["–"] * 3
            down = self.longest_down.get(name)
            lines.append(
                f"| {name} | {self.kills.get(name, 0)} | {f'{down:.1f} s' if down else '–'} | {' | '.join(memory)} |"
            )
        return lines
