"""Growth against tuned controls: ``python -m tests.bench.growth [--size quick|full] [--tasks mnist1d,digits]``.

First every arm's learning rate is tuned, then all arms run on the report's seeds. Finished runs are kept in
``growth-<task>.jsonl`` and not repeated; the report is written anew after each task.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .analysis import Results, tuned_rates
from .arms import report_jobs, tuning_jobs
from .chart import chart
from .execute import execute
from .report import write
from .store import Store
from .suites import ARMS, EFFORTS, SUITES

ROOT = Path(__file__).resolve().parents[3]


def say(text: str) -> None:
    """A line with the time of day."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def names(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """A comma-separated choice. Raises ``SystemExit`` naming what is not known."""
    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"unknown {what} {', '.join(unknown)}; known are {', '.join(known)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the report; 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--size", choices=sorted(EFFORTS), default="full")
    parser.add_argument("--tasks", default=",".join(SUITES), help="comma-separated")
    parser.add_argument("--arms", default=",".join(ARMS), help="comma-separated")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: docs/results, for --size quick runs/growth-quick")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report from the rows")
    given = parser.parse_args(arguments)
    effort = EFFORTS[given.size]
    tasks, arms = names(given.tasks, list(SUITES), "task"), names(given.arms, ARMS, "arm")
    out = given.out or (ROOT / "docs" / "results" if given.size == "full" else ROOT / "runs" / "growth-quick")
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="esper-growth-library-") as library:
        for task in tasks:
            if given.report_only:
                break
            suite, store = SUITES[task], Store(out / f"growth-{task}.jsonl")
            say(f"{task}: learning rates")
            failed += execute(list(tuning_jobs(suite, effort, arms)), store, given.processes, say, Path(library))
            rates = tuned_rates(store.rows(), suite.rates[len(suite.rates) // 2])
            say(f"{task}: report")
            failed += execute(list(report_jobs(suite, effort, arms, rates)), store, given.processes, say, Path(library))
            report(out)
    say(f"report: {report(out)}")
    for line in failed:
        say(f"failed: {line}")
    return 1 if failed else 0


def report(out: Path) -> Path:
    """Write ``growth.md`` and ``growth.svg`` from all rows in ``out``, and from ``growth-notes.md`` if it is there."""
    rows = {name: Store(out / f"growth-{name}.jsonl").rows() for name in SUITES}
    every = [Results.of(SUITES[name], found) for name, found in rows.items() if found]
    path = out / "growth.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = out / "growth-notes.md"
    told = notes.read_text(encoding="utf-8") if notes.exists() else ""
    path.write_text(write([row for found in rows.values() for row in found], every, told), encoding="utf-8")
    (out / "growth.svg").write_text(chart(every), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
