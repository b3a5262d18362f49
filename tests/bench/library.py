"""How long a query of the kernel library takes: 100,000 artifacts in SQLite, 200 for each interface.

Three quarters of the artifacts are validated and each has a report of the usual size. Three kinds of question are asked
in turn.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from sqlalchemy import insert
from tests.bench.analysis import Estimate, bootstrap, median, percentile
from tests.bench.report import BELOW, Report, bounded

from esper.urza import KernelQuery, SqlLibrary
from esper.urza.models import ArtifactRow, ReportRow, TagRow
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout

P50_MS, P95_MS = 10.0, 200.0
HARDWARE, TOOLCHAIN = "x86_64-avx2", "01234567"
STATES = ("Validated", "Validated", "Validated", "Rejected")
TAGS = ("high_speed", "low_memory", "numerically_stable")
REPORT = {"ratio": 0.9, "latency_ms_mean": 1.0, "samples": list(range(100)), "environment": {"cpu": "x" * 200}}


def fill(library: SqlLibrary, artifacts: int) -> list[Interface]:
    """Write rows straight into the tables: the way through the states would take hours at this size."""
    draw = random.Random(0)
    interfaces = [Interface(Layout.VECTOR, 16 + number) for number in range(artifacts // 200)]
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
        carried = sorted(tag for tag in TAGS if draw.random() < 0.3)
        rows.append(
            {
                "artifact_id": name, "number": f"{number:016x}", "blueprint": digests[number // len(interfaces) % 50],
                "interface_digest": interfaces[number % len(interfaces)].digest(), "interface": "{}",
                "strategy": "fast",
                "hardware": HARDWARE, "toolchain": TOOLCHAIN, "state": draw.choice(STATES),
                "cause": "", "flops": 1, "parameters": 1, "ratio": 0.9, "latency_ms": 1.0, "memory_mb": 1.0,
                "risk": draw.random(), "report": number + 1, "created_at": 0, "changed_at": 0,
                "tags": " ".join(carried),
            }
        )  # fmt: skip
        reports.append(
            {"id": number + 1, "artifact_id": name, "verdict": "Validated", "digest": "0" * 64, "body": body,
             "created_at": 0}
        )  # fmt: skip
        tags += [{"artifact_id": name, "tag": tag} for tag in carried]
    with library._database.writing() as session:
        session.execute(insert(ArtifactRow), rows)
        session.execute(insert(ReportRow), reports)
        session.execute(insert(TagRow), tags)
    return interfaces


def run(quick: bool = False) -> Report:
    """Fill a library and ask it."""
    artifacts, repeats = (10_000, 40) if quick else (100_000, 300)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as home:
        library = SqlLibrary.open(Path(home))
        interface = fill(library, artifacts)[3]
        questions = {
            "interface": KernelQuery(interface, HARDWARE, toolchain=TOOLCHAIN),
            "interface, tags, risk": KernelQuery(interface, HARDWARE, tags=TAGS[:2], max_risk=0.5, toolchain=TOOLCHAIN),
            "interface, blueprints": KernelQuery(interface, HARDWARE, blueprints=("b1", "b2"), toolchain=TOOLCHAIN),
        }
        times: dict[str, list[float]] = {name: [] for name in questions}
        found = {name: len(library.query(question)) for name, question in questions.items()}
        for _ in range(repeats):
            for name, question in questions.items():
                began = time.perf_counter()
                library.query(question)
                times[name].append((time.perf_counter() - began) * 1e3)
        library.close()
    for name, taken in times.items():
        what = f"library query by {name} ({artifacts:,} artifacts, SQLite)"
        note = f"{found[name]} kernels found"
        report.rows.append(bounded(f"{what}, median", f"<= {P50_MS:g} ms", median(taken), "ms", BELOW, P50_MS, note))
        if percentile(taken, 0.95) is not None:
            late: Estimate = bootstrap(taken, lambda values: float(percentile(values.tolist(), 0.95) or 0.0))
            report.rows.append(
                bounded(f"{what}, 95th percentile", f"<= {P95_MS:g} ms", late, "ms", BELOW, P95_MS, note)
            )
    report.details["milliseconds"] = times
    return report
