"""Raw results: one JSON line per finished run, appended as it ends, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arms import Job

Row = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The rows in one file."""

    path: Path

    def rows(self) -> list[Row]:
        """All whole rows; a last line that was cut off by an interruption is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        found = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise ValueError(f"{self.path}: line {number} is damaged ({error}); remove it") from error
        return found

    def append(self, row: Row) -> None:
        """Add a row durably; a cut-off last line is dropped first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(0)
                content = file.read()
                if not content.endswith(b"\n"):
                    file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps(row, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs that have no row yet, in their order, each once."""
        done = {identity(row) for row in self.rows()}
        return [job for job in dict.fromkeys(jobs) if identity(job.key()) not in done]


def identity(row: Row) -> tuple[Any, ...]:
    """What tells one run from another."""
    return (row["task"], row["arm"], float(row["budget"]), float(row["rate"]), int(row["seed"]))
