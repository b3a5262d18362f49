"""The promised figures: ``python -m tests.bench [NAME...] [--quick] [--json FILE] [--write]``.

Each benchmark runs in a process of its own, one after the other. ``--write`` keeps the measurements in
``docs/results/bench`` and brings the tables of ``docs/promises.md`` up to date. Exits with 1 if a benchmark could not
be run; a promise that does not hold is a result, not a failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import promises, store
from tests.bench.common import ROOT
from tests.bench.registry import BENCHMARKS
from tests.bench.report import machine, text_table


def measure(name: str, quick: bool, folder: Path) -> dict[str, Any] | None:
    """Run one benchmark in a child process, its progress going to stderr; None if it failed."""
    file = folder / f"{name}.json"
    command = [sys.executable, "-m", "tests.bench.child", name, str(file), *(["--quick"] if quick else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(f"    {line.rstrip()}", file=sys.stderr, flush=True)
    if child.returncode != 0:
        print(f"{name}: failed with exit status {child.returncode}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return answer


def show(answer: dict[str, Any]) -> None:
    """Print one benchmark's table and the notes without which its figures can't be judged."""
    print(f"\n{answer['name']}: {BENCHMARKS[answer['name']].summary} ({answer['seconds']:.0f} s)")
    print(text_table(answer["rows"]))
    notes = dict.fromkeys(row["note"] for row in answer["rows"] if row["note"])
    for note in notes:
        print(f"  - {note}")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = "\n".join(f"  {name}: {b.summary}, {b.seconds} s ({b.quick_seconds} s)" for name, b in BENCHMARKS.items())
    parser.epilog = f"benchmarks, with seconds on two idle cores (quick in brackets):\n{known}"
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all of them if none is given")
    parser.add_argument("--quick", action="store_true", help="fewer observations, wider intervals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and raw data to one file as well")
    parser.add_argument(
        "--write", action="store_true", help="keep the measurements and bring docs/promises.md up to date"
    )
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    chosen = [name for name in BENCHMARKS if name in given.names or not given.names]
    left = sum(BENCHMARKS[name].quick_seconds if given.quick else BENCHMARKS[name].seconds for name in chosen)
    print(f"{len(chosen)} benchmarks, about {max(1, round(left / 60))} min on two idle cores", file=sys.stderr)
    answers = []
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        for number, name in enumerate(chosen, start=1):
            print(f"{time.strftime('%H:%M:%S')} [{number}/{len(chosen)}] {name}", file=sys.stderr, flush=True)
            answer = measure(name, given.quick, Path(folder))
            if answer is None:
                continue
            answers.append(answer)
            show(answer)
            if given.write:
                store.write(answer)
                promises.update()
    rows = [row for answer in answers for row in answer["rows"] if row["holds"] is not None]
    broken = [row["promise"] for row in rows if not row["holds"]]
    print(f"\n{len(rows) - len(broken)} of {len(rows)} promises hold" + "".join(f"\n  does not: {p}" for p in broken))
    if answers:
        print(machine(answers[-1]))
    if given.json is not None:
        given.json.write_text(json.dumps(answers, sort_keys=True, indent=1), encoding="utf-8")
    return 0 if len(answers) == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
