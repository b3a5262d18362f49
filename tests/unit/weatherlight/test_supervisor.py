from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from esper.weatherlight.backoff import Backoff
from esper.weatherlight.supervisor import Health, OrganFailed, Status, Supervisor

PATIENCE = 5.0


class Bench:
    """A supervisor whose waits are recorded instead of waited for, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.supervisor = Supervisor(
            Backoff(first=1.0, longest=4.0, tries=5, healthy=60.0), clock=lambda: self.now, pause=self._pause
        )

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        self.waits.append(seconds)

    def until(self, condition: Callable[[Status], bool]) -> Status:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            (status,) = self.supervisor.status()
            if condition(status):
                return status
            time.sleep(0.001)
        raise AssertionError(f"still {self.supervisor.status()}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.supervisor.close()


def test_a_thread_that_returns_has_finished(bench: Bench) -> None:
    ran = []
    bench.supervisor.start("once", lambda stop: ran.append(threading.current_thread().name))
    status = bench.until(lambda status: status.health is Health.FINISHED)
    assert status == Status("once", Health.FINISHED, 0, "")
    assert ran == ["esper-once"]
    bench.supervisor.check()


def test_a_failing_thread_is_started_again_with_growing_waits(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def work(stop: threading.Event) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError(f"try {len(tries)}")
        stop.wait(PATIENCE)

    with caplog.at_level(logging.WARNING):
        bench.supervisor.start("worker", work)
        status = bench.until(lambda status: status.restarts == 3 and status.health is Health.RUNNING)
    assert status.last_error == "ConnectionError: try 3"
    assert bench.waits == [1.0, 2.0, 4.0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    bench.supervisor.check()


def test_it_gives_up_loudly_with_the_cause(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def work(stop: threading.Event) -> None:
        raise OSError("disk on fire")

    bench.supervisor.start("worker", work)
    bench.until(lambda status: status.health is Health.FAILED)
    assert bench.waits == [1.0, 2.0, 4.0, 4.0]
    with pytest.raises(OrganFailed, match=r"worker: failed 5 times.*disk on fire") as failure:
        bench.supervisor.check()
    assert isinstance(failure.value.__cause__, OSError)
    assert failure.value.exit_code == 3
    assert "ERROR" in [record.levelname for record in caplog.records]


def test_a_healthy_stretch_starts_the_count_again(bench: Bench) -> None:
    runs = []

    def work(stop: threading.Event) -> None:
        runs.append(1)
        if len(runs) == 12:
            stop.wait(PATIENCE)
            return
        if len(runs) % 4 == 0:
            bench.now += 100.0
        raise ValueError("now and then")

    bench.supervisor.start("worker", work)
    bench.until(lambda status: status.restarts == 11 and status.health is Health.RUNNING)
    assert bench.waits == [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 4.0, 1.0, 2.0, 4.0, 4.0]


def test_one_failure_does_not_touch_the_others(bench: Bench) -> None:
    alive = threading.Event()

    def good(stop: threading.Event) -> None:
        alive.set()
        stop.wait(PATIENCE)

    def bad(stop: threading.Event) -> None:
        raise ValueError("bad")

    bench.supervisor.start("bad", bad)
    bench.supervisor.start("good", good)
    deadline = time.monotonic() + PATIENCE
    while bench.supervisor.status()[0].health is not Health.FAILED:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert alive.wait(PATIENCE)
    assert [status.health for status in bench.supervisor.status()] == [Health.FAILED, Health.RUNNING]


def test_closing_ends_threads_and_names_those_that_do_not(bench: Bench) -> None:
    release = threading.Event()
    bench.supervisor.start("polite", lambda stop: stop.wait(PATIENCE) and None)
    bench.supervisor.start("deaf", lambda stop: release.wait(PATIENCE) and None)
    assert bench.supervisor.close(timeout=0.2) == ["deaf"]
    release.set()
    assert bench.supervisor.close() == []


def test_asking_to_end_does_not_wait(bench: Bench) -> None:
    ended = threading.Event()

    def work(stop: threading.Event) -> None:
        assert stop.wait(PATIENCE)
        ended.set()

    bench.supervisor.start("work", work)
    bench.supervisor.stop()
    assert ended.wait(PATIENCE)
    assert bench.supervisor.close() == []


def test_an_error_while_closing_is_no_failure(bench: Bench) -> None:
    def work(stop: threading.Event) -> None:
        stop.wait(PATIENCE)
        raise ConnectionError("the bus was closed")

    bench.supervisor.start("worker", work)
    bench.supervisor.close()
    assert bench.until(lambda status: status.health is Health.FINISHED).restarts == 0
    bench.supervisor.check()


def test_closing_does_not_sit_out_a_wait() -> None:
    supervisor = Supervisor(Backoff(first=1000.0, longest=1000.0))

    def work(stop: threading.Event) -> None:
        raise ValueError("at once")

    supervisor.start("worker", work)
    deadline = time.monotonic() + PATIENCE
    while supervisor.status()[0].health is not Health.WAITING:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert supervisor.close(PATIENCE) == []


def test_names_are_used_once(bench: Bench) -> None:
    bench.supervisor.start("worker", lambda stop: None)
    with pytest.raises(ValueError, match="worker"):
        bench.supervisor.start("worker", lambda stop: None)
