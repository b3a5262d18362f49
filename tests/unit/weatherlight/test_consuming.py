"""Consuming: whose fault a failure is, what is counted, and since when nothing was done."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.message import Message as Payload

from esper.errors import LibraryError
from esper.oona import InProcessBus, Message, Outcome
from esper.urza import AccessDenied, LibraryUnavailable
from esper.weatherlight.consuming import Activity, Again, Consumer
from esper.weatherlight.post import Post
from leyline.errors import EnvelopeError
from leyline.topics import COMPILE
from leyline.v1 import kernels_pb2 as wire


class Bench:
    """A consumer whose handler does as it is told."""

    def __init__(self) -> None:
        self.bus = InProcessBus()
        self.post = Post.in_process(self.bus)
        self.raised: list[Exception] = []
        self.seen: Counter[str] = Counter()
        self.outcomes: list[Outcome] = []
        self.around: list[str] = []
        self.activity, self.stop = Activity(), threading.Event()
        self.consumer = Consumer(
            self.bus, self.post, COMPILE, "tezzeret", self.handle, tally=self, activity=self.activity, around=self.spans
        )

    def handle(self, payload: Payload, message: Message, stop: threading.Event) -> None:
        assert self.activity.idle_seconds == 0.0
        self.seen[message.key or ""] += 1
        if self.raised:
            raise self.raised[0]

    def outcome(self, topic: str, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def built(self, strategy: str, seconds: float) -> None: ...

    def verdict(self, verdict: str) -> None: ...

    @contextmanager
    def spans(self, message: Message) -> Iterator[None]:
        self.around.append(message.message_id)
        yield

    def send(self, key: str = "a") -> str:
        return self.post.send(wire.KernelCompileRequest(kernel_artifact_id=key), "urza", key)

    def run(self, until: int) -> None:
        """Consume until so many deliveries had an outcome."""

        def idle() -> None:
            if len(self.outcomes) >= until:
                self.stop.set()

        self.consumer.run(self.stop, idle)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_is_handled_is_counted_within_its_span(bench: Bench) -> None:
    sent = [bench.send("a"), bench.send("b")]
    bench.run(2)
    assert bench.outcomes == [Outcome.HANDLED, Outcome.HANDLED]
    assert bench.around == sent
    assert bench.seen == {"a": 1, "b": 1}


@pytest.mark.parametrize("error", [Again("again"), LibraryError("no"), EnvelopeError("no"), ValueError("no")])
def test_a_message_s_own_fault_is_its_own(bench: Bench, error: Exception) -> None:
    bench.raised = [error]
    bench.send()
    bench.run(4)
    assert bench.outcomes == [Outcome.FAILED] * 4
    (letter,) = bench.bus.dead_letters()
    assert letter.cause == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "error", [LibraryUnavailable("away"), AccessDenied("expired"), RuntimeError("the disk is gone"), OSError("full")]
)
def test_a_fault_of_what_is_around_it_fails_the_thread_as_well(bench: Bench, error: Exception) -> None:
    bench.raised = [error]
    bench.send()
    with pytest.raises(type(error), match=str(error)):
        bench.run(4)
    assert (bench.outcomes, bench.bus.dead_letters()) == ([Outcome.FAILED], [])
    # Started again, and what was wrong is gone.
    bench.raised, bench.outcomes = [], []
    bench.run(1)
    assert bench.outcomes == [Outcome.HANDLED]


def test_a_fault_while_stopping_is_none(bench: Bench) -> None:
    bench.raised = [RuntimeError("it was taken away")]
    bench.send()
    handle = bench.handle

    def stopping(payload: Payload, message: Message, stop: threading.Event) -> None:
        stop.set()
        handle(payload, message, stop)

    bench.consumer = Consumer(bench.bus, bench.post, COMPILE, "tezzeret", stopping, tally=bench)
    bench.run(1)
    assert bench.outcomes == [Outcome.FAILED]


def test_since_when_nothing_was_done() -> None:
    activity = Activity()
    time.sleep(0.02)
    assert activity.idle_seconds >= 0.02
    with activity.at_work():
        with activity.at_work():
            assert activity.idle_seconds == 0.0
        assert activity.idle_seconds == 0.0
    assert activity.idle_seconds < 0.02
