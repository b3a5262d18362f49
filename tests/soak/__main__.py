"""``python -m tests.soak [--seconds N] [--seed N] [--write]``: the stack under load while its programs are killed.

A stack of its own is started. Kernels of ever new designs are asked for as a run does; every program of the stack is
killed with SIGKILL again and again, in an order drawn from the seed, and the broker is stopped for a while once. In the
end nothing may be lost, doubled or dangling, and memory must be flat. ``make soak`` goes on for an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "infra"), str(ROOT / "tests" / "support")]

from tests.soak.report import Report  # noqa: E402
from tests.soak.soak import Plan, soak  # noqa: E402

RESULTS = ROOT / "docs" / "results"


def main() -> int:
    """Run, print, and say by the exit code whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long harm is done (default 300)")
    parser.add_argument("--gap", type=float, default=8.0, help="seconds between two kills, on average (default 8)")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds the broker is stopped once (default 60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is drawn; told in the report")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.relative_to(ROOT)}")
    given = parser.parse_args()
    plan = Plan(given.seconds, given.gap, given.pause, given.seed)
    with tempfile.TemporaryDirectory(prefix="esper-soak-") as folder:
        # PostgreSQL runs as a user of its own and has to get in.
        Path(folder).chmod(0o755)
        report: Report = soak(
            plan, Path(folder), lambda words: print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)
        )
    print(report.text())
    if given.write:
        (RESULTS / "soak.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
        (RESULTS / "soak.md").write_text(report.page(), encoding="utf-8")
    return 0 if report.well else 1


if __name__ == "__main__":
    sys.exit(main())
