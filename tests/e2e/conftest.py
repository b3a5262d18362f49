from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from esper.cli import app, main
from forks import Child

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Esper = Callable[..., tuple[int, str]]


class Command(Child):
    """The command in a child that begins at once, and that real signals can be sent to."""

    def __init__(self, *arguments: Any) -> None:
        words = [str(argument) for argument in arguments]

        def become() -> None:
            sys.argv = ["esper", *words]
            main()

        super().__init__(become)

    def signal_when(self, number: signal.Signals, ready: Callable[[], bool], seconds: float = 120.0) -> None:
        """Send a signal as soon as ``ready`` says so; fails if the command ended before."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.wait(0) is None, "the command ended too early"
            assert time.monotonic() < deadline, "the command never got there"
            time.sleep(0.005)
        os.kill(self.pid, number)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel library for every run here: a kernel is certified once."""
    return tmp_path_factory.mktemp("kernels") / "library"


@pytest.fixture
def start() -> type[Command]:
    """Start the command in a child of its own."""
    return Command


@pytest.fixture
def esper() -> Esper:
    """Call the command in this process; returns its exit code and everything it wrote."""

    def call(*arguments: Any) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return call
