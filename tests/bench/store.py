"""Where measurements are kept: a file for each benchmark in ``docs/results/bench``, with rows, raw data and machine."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.common import RESULTS
from tests.bench.registry import BENCHMARKS

FOLDER = RESULTS / "bench"


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """The file of one benchmark."""
    return folder / f"{name}.json"


def write(answer: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write one benchmark's answer (what ``child`` leaves), a line for each of its parts; floats keep six digits."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(answer["name"], folder)
    lines = [f"{json.dumps(key)}: {json.dumps(shortened(answer[key]), sort_keys=True)}" for key in sorted(answer)]
    aside = path.with_suffix(".tmp")
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def read(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The stored answers of the benchmarks there are, in the registry's order."""
    return {
        name: json.loads(path_of(name, folder).read_text(encoding="utf-8"))
        for name in BENCHMARKS
        if path_of(name, folder).exists()
    }


def shortened(value: Any) -> Any:
    """The value with every float rounded to six significant digits."""
    if isinstance(value, Mapping):
        return {key: shortened(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value
