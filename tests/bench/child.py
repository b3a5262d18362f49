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

from esper.ending import run_to_the_end
from esper.kernel.hardware import hardware_target


def processor() -> str:
    """The processor's name for people; the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
        "processor": processor(),
        "hardware": hardware_target("cpu"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    arguments.file.write_text(json.dumps(answer, sort_keys=True, allow_nan=False))


if __name__ == "__main__":
    run_to_the_end(main)
