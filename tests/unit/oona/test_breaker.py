from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esper.oona import BreakerState, CircuitBreaker, CircuitOpen


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Down(Exception):
    pass


def fail() -> None:
    raise Down("nobody there")


def breaker(clock: Clock, **options: object) -> CircuitBreaker:
    return CircuitBreaker(
        "library",
        failures=3,
        cooldown=2.0,
        longest_cooldown=8.0,
        counts=Down,
        clock=clock,
        **options,  # type: ignore[arg-type]
    )


def opened(clock: Clock) -> CircuitBreaker:
    made = breaker(clock)
    for _ in range(3):
        with pytest.raises(Down):
            made.call(fail)
    return made


def test_stays_closed_below_the_limit_and_forgets_on_success() -> None:
    made = breaker(Clock())
    for _ in range(5):
        for _ in range(2):
            with pytest.raises(Down):
                made.call(fail)
        assert made.call(lambda: "fine") == "fine"
    assert made.state is BreakerState.CLOSED


def test_opens_and_names_the_cause() -> None:
    clock = Clock()
    made = opened(clock)
    called: list[bool] = []
    clock.now += 0.5
    with pytest.raises(CircuitOpen, match=r"library.*nobody there.*1\.5 s") as refusal:
        made.call(lambda: called.append(True))
    assert called == []
    assert refusal.value.retry_in == pytest.approx(1.5)
    assert made.retry_in == pytest.approx(1.5)


def test_a_good_probe_closes_it() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += 2.0
    assert made.state is BreakerState.HALF_OPEN
    assert made.call(lambda: 7) == 7
    assert made.state is BreakerState.CLOSED


def test_bad_probes_double_the_cooldown_up_to_the_longest() -> None:
    clock = Clock()
    made = opened(clock)
    waits = []
    for _ in range(4):
        clock.now += made.retry_in
        with pytest.raises(Down):
            made.call(fail)
        waits.append(made.retry_in)
    assert waits == pytest.approx([4.0, 8.0, 8.0, 8.0])
    clock.now += made.retry_in
    made.call(lambda: None)
    for _ in range(3):
        with pytest.raises(Down):
            made.call(fail)
    assert made.retry_in == pytest.approx(2.0), "the cool-down starts small again after a recovery"


def test_only_one_probe_at_a_time() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += 2.0
    inside, leave = threading.Event(), threading.Event()

    def probe() -> None:
        inside.set()
        leave.wait(5)

    thread = threading.Thread(target=made.call, args=(probe,))
    thread.start()
    assert inside.wait(5)
    with pytest.raises(CircuitOpen):
        made.call(lambda: None)
    leave.set()
    thread.join()
    made.call(lambda: None)


def test_needs_as_many_good_probes_as_asked() -> None:
    clock = Clock()
    made = breaker(clock, successes=2)
    for _ in range(3):
        with pytest.raises(Down):
            made.call(fail)
    clock.now += 2.0
    made.call(lambda: None)
    assert made.state is BreakerState.HALF_OPEN
    made.call(lambda: None)
    assert made.state is BreakerState.CLOSED


def test_other_exceptions_change_nothing_and_free_the_probe() -> None:
    clock = Clock()
    made = opened(clock)
    clock.now += 2.0

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.call(interrupted)
    assert made.state is BreakerState.HALF_OPEN
    made.call(lambda: None)
    assert made.state is BreakerState.CLOSED


def test_a_late_answer_from_before_it_opened_does_not_close_it() -> None:
    clock = Clock()
    made = breaker(clock)

    def slow() -> str:
        for _ in range(3):
            with pytest.raises(Down):
                made.call(fail)
        return "late"

    assert made.call(slow) == "late"
    assert made.state is BreakerState.OPEN


@pytest.mark.parametrize("options", [{"failures": 0}, {"successes": 0}, {"cooldown": 0.0}, {"cooldown": 99.0}])
def test_senseless_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="breaker 'b'"):
        CircuitBreaker("b", **options)  # type: ignore[arg-type]


class BreakerMachine(RuleBasedStateMachine):
    """Against the plainest model: failures in a row, and a time before which nothing is tried."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.real = breaker(self.clock)
        self.row = 0
        self.closed = True
        self.cooldown = 2.0
        self.until = 0.0

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.closed or self.clock.now >= self.until)
    @rule()
    def good_call(self) -> None:
        assert self.real.call(lambda: 1) == 1
        self.row, self.closed, self.cooldown = 0, True, 2.0

    @precondition(lambda self: self.closed or self.clock.now >= self.until)
    @rule()
    def bad_call(self) -> None:
        with pytest.raises(Down):
            self.real.call(fail)
        if self.closed:
            self.row += 1
            if self.row == 3:
                self.closed, self.until = False, self.clock.now + self.cooldown
        else:
            self.cooldown = min(8.0, self.cooldown * 2)
            self.until = self.clock.now + self.cooldown

    @precondition(lambda self: not self.closed and self.clock.now < self.until)
    @rule()
    def refused_call(self) -> None:
        with pytest.raises(CircuitOpen):
            self.real.call(fail)

    @invariant()
    def states_agree(self) -> None:
        due = BreakerState.HALF_OPEN if self.clock.now >= self.until else BreakerState.OPEN
        assert self.real.state is (BreakerState.CLOSED if self.closed else due)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
