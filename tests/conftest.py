"""For all tests: what needs a compiler is skipped where there is none, except in CI, where that is a failure."""

from __future__ import annotations

import os

import pytest

from esper.kernel.hardware import compiler


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_compiler") is None or compiler() is not None:
        return
    if os.environ.get("CI"):
        pytest.fail(
            "this test needs a C++ compiler, and in CI there must be one: install g++ or set CXX", pytrace=False
        )
    pytest.skip("needs a C++ compiler on the PATH")
