from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from esper.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Esper = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel library for every run here: a kernel is certified once."""
    return tmp_path_factory.mktemp("kernels") / "library"


@pytest.fixture
def esper() -> Esper:
    """Call the command in this process; returns its exit code and everything it wrote."""

    def call(*arguments: Any) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return call
