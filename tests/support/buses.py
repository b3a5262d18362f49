"""What the contract tests of message buses share: the adapters, small topics, and ways to take messages."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from esper.oona import (
    Bus,
    BusFull,
    InProcessBus,
    Message,
    Subscription,
)
from leyline.topics import COMPILE, TopicKind
from leyline.topics import TOPICS as TOPICS_OF_RUNS

TOPICS = {
    name: replace(TOPICS_OF_RUNS[COMPILE], name=name, kind=kind, consumers=(), compacted=name == "catalog")
    for name, kind in {
        "commands": TopicKind.COMMAND,
        "work": TopicKind.WORK,
        "reports": TopicKind.REPORT,
        "catalog": TopicKind.REPORT,
        "telemetry": TopicKind.TELEMETRY,
    }.items()
}
CAPACITY = 8
PATIENCE = 30.0
"""Seconds to wait for a message that must come."""
SILENCE = 0.2
"""Seconds to wait for a message that must not come."""


@dataclass
class Stalled:
    """A bus whose messages go nowhere until somebody wants them; ``drain`` brings what is expected to arrive."""

    bus: Bus
    drain: Callable[[int], list[bytes]]


@dataclass(frozen=True)
class Adapter:
    """How a bus is opened for a test, and how one is had that can't pass on what is published on a topic."""

    open: Callable[[], Bus]
    stalled: Callable[[str], AbstractContextManager[Stalled]]


def in_process() -> Bus:
    return InProcessBus(TOPICS, capacity=dict.fromkeys(TopicKind, CAPACITY))


@contextlib.contextmanager
def in_process_stalled(topic: str) -> Iterator[Stalled]:
    bus = in_process()
    subscription = bus.subscribe(topic, "s")
    yield Stalled(bus, lambda expected: [message.data for message in take(subscription, expected)])
    bus.close()


# The broker and its client are needed by the tests on Pulsar only.
def on_pulsar() -> Bus:
    from brokers import pulsar_bus

    return pulsar_bus(TOPICS, _namespaces().take(), outbox_messages=CAPACITY)


def open_with_topics_of_runs(adapter: str) -> Bus:
    """A bus with the topics that runs have."""
    if adapter == "in-process":
        return InProcessBus()
    from brokers import pulsar_bus

    return pulsar_bus()


@functools.cache
def _namespaces() -> Any:
    from brokers import Namespaces

    return Namespaces(TOPICS)


@contextlib.contextmanager
def on_pulsar_stalled(topic: str) -> Iterator[Stalled]:
    from brokers import behind_gate

    with behind_gate(TOPICS, _namespaces().take(), outbox_messages=CAPACITY) as (gate, bus, open_bus):
        subscription = open_bus.subscribe(topic, "s")

        def drain(expected: int) -> list[bytes]:
            gate.open()
            return [message.data for message in take(subscription, expected)]

        yield Stalled(bus, drain)


ADAPTERS: dict[str, Adapter] = {
    "in-process": Adapter(in_process, in_process_stalled),
    "pulsar": Adapter(on_pulsar, on_pulsar_stalled),
}


def must_receive(subscription: Subscription) -> Message:
    message = subscription.receive(PATIENCE)
    assert message is not None, f"{subscription.topic}/{subscription.name}: nothing came within {PATIENCE} s"
    return message


def take(subscription: Subscription, expected: int) -> list[Message]:
    """Take and acknowledge exactly as many as are expected."""
    taken = []
    for _ in range(expected):
        taken.append(must_receive(subscription))
        subscription.ack(taken[-1])
    assert subscription.receive(SILENCE) is None, "more came than was expected"
    return taken


def refuse(subscription: Subscription, times: int, cause: str = "no") -> None:
    """Refuse what comes."""
    for _ in range(times):
        subscription.nack(must_receive(subscription), cause)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def publish_until_taken(bus: Bus, topic: str, data: bytes, key: str | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            bus.publish(topic, data, key=key)
            return
        except BusFull:
            assert time.monotonic() < deadline, "the queue never emptied"
            time.sleep(0.001)
