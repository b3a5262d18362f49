"""Building and measuring take turns: between threads of a process, and between processes of a machine."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from esper.weatherlight.quiet import Quiet, SharedQuiet

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["threads", "processes"])
def turns(request, tmp_path):
    """Two hands on the same turns."""
    if request.param == "threads":
        one = Quiet()
        return one, one
    return SharedQuiet(tmp_path / "turns"), SharedQuiet(tmp_path / "turns")


def begun(work, stop=None):
    """Whether work may begin within a moment; it ends at once if so."""
    entered = threading.Event()

    def enter():
        with work(stop or threading.Event()) as go:
            if go:
                entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    entered.wait(1.5)
    return entered.is_set(), thread


def test_builds_go_together(turns):
    one, other = turns
    with one.build(threading.Event()) as go:
        assert go
        assert begun(other.build)[0]


def test_a_measurement_is_alone(turns):
    one, other = turns
    with one.measure(threading.Event()) as go:
        assert go
        waiting = [begun(other.build), begun(other.measure)]
        assert not any(entered for entered, _ in waiting)
    for _, thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


def test_a_measurement_that_waits_goes_before_builds_that_have_not_begun(turns):
    one, other = turns
    with one.build(threading.Event()):
        entered, measuring = begun(other.measure)
        assert not entered
        late, building = begun(other.build)
        assert not late
    for thread in (measuring, building):
        thread.join(10)
        assert not thread.is_alive()


def test_whoever_is_told_to_stop_no_longer_waits(turns):
    one, other = turns
    stop = threading.Event()
    with one.measure(threading.Event()):
        entered, thread = begun(other.build, stop)
        assert not entered
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def _hold(folder, holding):
    with SharedQuiet(folder).measure(threading.Event()):
        holding.set()
        time.sleep(60)


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    holding = SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(tmp_path / "turns", holding))
    holder.start()
    assert holding.wait(30)
    mine = SharedQuiet(tmp_path / "turns")
    assert not begun(mine.build)[0]
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    with mine.measure(threading.Event()) as go:
        assert go
