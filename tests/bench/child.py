"""Runs one benchmark in this process and writes its report: ``python -m tests.bench.child NAME FILE [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path

import torch
from tests.bench import common  # noqa: F401  (finds tests/support)
from tests.bench.registry import BENCHMARKS


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(BENCHMARKS))
    parser.add_argument("file", type=Path)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before, began = os.getloadavg()[0], time.time()
    report = importlib.import_module(f"tests.bench.{BENCHMARKS[arguments.name].module}").run(arguments.quick)
    answer = {
        **report.to_dict(),
        "name": arguments.name,
        "quick": arguments.quick,
        "seconds": time.time() - began,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "load_before": before,
        "load_after": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    arguments.file.write_text(json.dumps(answer, sort_keys=True, allow_nan=False))


if __name__ == "__main__":
    main()
