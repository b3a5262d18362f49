"""Threads of this process that are on other hardware: what asks there for the hardware target is told another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from esper.kernel import hardware

_here = threading.local()


def on(target: str, run: Callable[[threading.Event], None]) -> Callable[[threading.Event], None]:
    """The same, on other hardware, once ``pretend`` was called."""

    def there(stop: threading.Event) -> None:
        _here.target = target
        run(stop)

    return there


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads be elsewhere until the test is over."""
    real = hardware.hardware_target

    def target(device: Any = "cpu") -> str:
        return getattr(_here, "target", None) or real(device)

    monkeypatch.setattr(hardware, "hardware_target", target)
