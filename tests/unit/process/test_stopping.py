"""Signals: the first asks, the second does not."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from esper.process import Stopping
from forks import forked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Stopping() as stopping:
        assert not stopping()
        os.kill(os.getpid(), number)
        assert stopping.event.wait(5)
        assert (stopping(), stopping.by) == (True, number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_leaves_at_once(second: signal.Signals, status: int) -> None:
    def work() -> None:
        with Stopping():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), second)
            threading.Event().wait(30)

    assert forked(work, kill_after=20) == status


def test_it_can_be_stopped_without_a_signal() -> None:
    stopping = Stopping()
    stopping.stop()
    assert stopping()
    assert stopping.by is None
