"""What the contract tests of message buses share: the adapters, small topics, and ways to take messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

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
    name: replace(TOPICS_OF_RUNS[COMPILE], name=name, kind=kind)
    for name, kind in {
        "commands": TopicKind.COMMAND,
        "work": TopicKind.WORK,
        "reports": TopicKind.REPORT,
        "telemetry": TopicKind.TELEMETRY,
    }.items()
}
CAPACITY = 8
PATIENCE = 5.0
"""Seconds to wait for a message that must come."""
SILENCE = 0.05
"""Seconds to wait for a message that must not come."""


def in_process() -> Bus:
    return InProcessBus(TOPICS, capacity=dict.fromkeys(TopicKind, CAPACITY))


ADAPTERS: dict[str, Callable[[], Bus]] = {"in-process": in_process}


def must_receive(subscription: Subscription) -> Message:
    message = subscription.receive(PATIENCE)
    assert message is not None, f"{subscription.topic}/{subscription.name}: nothing came within {PATIENCE} s"
    return message


def take_all(subscription: Subscription) -> list[Message]:
    taken = []
    while (message := subscription.receive(SILENCE)) is not None:
        subscription.ack(message)
        taken.append(message)
    return taken


def publish_until_taken(bus: Bus, topic: str, data: bytes, key: str | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            bus.publish(topic, data, key=key)
            return
        except BusFull:
            assert time.monotonic() < deadline, "the queue never emptied"
            time.sleep(0.001)
