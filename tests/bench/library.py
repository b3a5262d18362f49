"""How long a query of the kernel library takes: `python tests/bench/library.py [--json] [--artifacts N] [-n N]`.

A library with N artifacts (10,000 by default) of 50 interfaces and 50 blueprints, three quarters of them validated and
each with a report of the usual size, is asked three kinds of question. Prints rows found, the median, the 95th
percentile and the slowest, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert

from esper.urza import KernelQuery, SqlLibrary
from esper.urza.models import ArtifactRow, ReportRow, TagRow
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout

HARDWARE, TOOLCHAIN = "x86_64-avx2", "01234567"
STATES = ("Validated", "Validated", "Validated", "Rejected")
TAGS = ("high_speed", "low_memory", "numerically_stable")
REPORT = {"ratio": 0.9, "latency_ms_mean": 1.0, "samples": list(range(100)), "environment": {"cpu": "x" * 200}}


def fill(library: SqlLibrary, artifacts: int) -> list[Interface]:
    """Write rows straight into the tables: the way through the states would take hours at this size."""
    draw = random.Random(0)
    interfaces = [Interface(Layout.VECTOR, width) for width in range(16, 66)]
    digests = []
    for number in range(50):
        nodes = {
            "x": node("input"),
            "up": node("linear", "x", out=f"{number + 1}w"),
            "y": node("linear", "up", out="w"),
        }
        ir = BlueprintIR(nodes, "y", (Layout.VECTOR,))
        digests.append(library.register_blueprint(f"b{number}", ir, 0.2))
    body = json.dumps(REPORT)
    rows, reports, tags = [], [], []
    for number in range(artifacts):
        name = f"{number:016x}-{HARDWARE}-fast-{TOOLCHAIN}"
        rows.append(
            {
                "artifact_id": name, "number": f"{number:016x}", "blueprint": digests[number // 50 % 50],
                "interface_digest": interfaces[number % 50].digest(), "interface": "{}", "strategy": "fast",
                "hardware": HARDWARE, "toolchain": TOOLCHAIN, "state": draw.choice(STATES),
                "cause": "", "flops": 1, "parameters": 1, "ratio": 0.9, "latency_ms": 1.0, "memory_mb": 1.0,
                "risk": draw.random(), "report": number + 1, "created_at": 0, "changed_at": 0,
            }
        )  # fmt: skip
        reports.append(
            {"id": number + 1, "artifact_id": name, "verdict": "Validated", "digest": "0" * 64, "body": body,
             "created_at": 0}
        )  # fmt: skip
        tags += [{"artifact_id": name, "tag": tag} for tag in TAGS if draw.random() < 0.3]
    with library._database.writing() as session:
        session.execute(insert(ArtifactRow), rows)
        session.execute(insert(ReportRow), reports)
        session.execute(insert(TagRow), tags)
    return interfaces


def main() -> None:
    """Fill a library and ask it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("-n", type=int, default=100, help="times each question is asked")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as home:
        library = SqlLibrary.open(Path(home))
        interface = fill(library, options.artifacts)[3]
        questions = {
            "interface": KernelQuery(interface, HARDWARE, toolchain=TOOLCHAIN),
            "interface, tags, risk": KernelQuery(interface, HARDWARE, tags=TAGS[:2], max_risk=0.5, toolchain=TOOLCHAIN),
            "interface, blueprints": KernelQuery(interface, HARDWARE, blueprints=("b1", "b2"), toolchain=TOOLCHAIN),
        }
        for name, question in questions.items():
            rows, times = len(library.query(question)), []
            for _ in range(options.n):
                began = time.perf_counter()
                library.query(question)
                times.append((time.perf_counter() - began) * 1e3)
            times.sort()
            results.append(
                {
                    "question": name,
                    "artifacts": options.artifacts,
                    "rows": rows,
                    "p50_ms": round(statistics.median(times), 2),
                    "p95_ms": round(times[int(0.95 * (len(times) - 1))], 2),
                    "max_ms": round(times[-1], 2),
                }
            )
        library.close()
    if options.json:
        print(json.dumps({"machine": platform.machine(), "results": results}))
        return
    for line in results:
        print("  ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
