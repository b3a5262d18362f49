"""Real runs to measure on: the same helpers the tests use."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"

for folder in (str(ROOT / "tests" / name) for name in ("support", "infra")):
    if folder not in sys.path:
        sys.path.insert(0, folder)
