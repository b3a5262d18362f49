"""For all tests: what needs a compiler is skipped where there is none, except in CI, where that is a failure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from esper.kernel.hardware import compiler

TESTS = Path(__file__).parent
LONGEST_FIRST = (
    "integration",
    "operator",
    "e2e",
    "unit/weatherlight",
    "unit/tezzeret",
    "contract",
    "unit/urza",
    "unit/bench",
)
"""Folders whose files take minutes: begun last, one of them would keep a worker busy after the others have ended.

``cluster`` is not among them: a whole node beside them would take the cores that their time limits count on.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; within a file, and among the others, the order stays."""
    items.sort(key=lambda item: _place(item.path.relative_to(TESTS).as_posix(), LONGEST_FIRST))


def _place(path: str, folders: Sequence[str]) -> int:
    return next((place for place, folder in enumerate(folders) if path.startswith(folder + "/")), len(folders))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_compiler") is None or compiler() is not None:
        return
    if os.environ.get("CI"):
        pytest.fail(
            "this test needs a C++ compiler, and in CI there must be one: install g++ or set CXX", pytrace=False
        )
    pytest.skip("needs a C++ compiler on the PATH")
