from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from esper.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Esper = Callable[..., tuple[int, str]]


class Command:
    """The command in a forked child: torch is imported already, and real signals can be sent."""

    def __init__(self, *arguments: Any) -> None:
        words = [str(argument) for argument in arguments]
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                code = CliRunner().invoke(app, words).exit_code
            finally:
                os._exit(code)

    def signal_when(self, number: signal.Signals, ready: Callable[[], bool], seconds: float = 120.0) -> None:
        """Send a signal as soon as ``ready`` says so; fails if the command ended before."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), "the command ended too early"
            assert time.monotonic() < deadline, "the command never got there"
            time.sleep(0.005)
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


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
