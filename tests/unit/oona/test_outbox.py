"""The way out to a broker that does not answer: bounded, in order, and never in the way."""

from __future__ import annotations

import threading
import time

import pytest

from esper.oona import BusClosed, BusFull, BusUnavailable, CircuitBreaker
from esper.oona.pulsar import PulsarBus, load_settings
from esper.oona.pulsar.link import Link
from leyline.topics import COMPILE, FIELD_REPORTS, SEED_HEALTH, TopicKind

# Nobody listens on the discard port of this machine.
NOWHERE = "pulsar://127.0.0.1:9"


def unreachable(**given: object) -> PulsarBus:
    usual = {"service_url": NOWHERE, "operation_timeout_seconds": 1.0, "flush_seconds": 0.0, "outbox_messages": 4}
    return PulsarBus(load_settings(**(usual | given)))


def test_each_topic_has_its_own_room() -> None:
    bus = unreachable()
    for topic in (COMPILE, FIELD_REPORTS):
        for number in range(4):
            bus.publish(topic, b"%d" % number)
        with pytest.raises(BusFull, match=f"{topic}: 4 .* messages wait for the broker"):
            bus.publish(topic, b"one too many")
    for number in range(7):
        bus.publish(SEED_HEALTH, b"%d" % number)
    counters = bus.counters()
    assert counters.published == {TopicKind.WORK: 4, TopicKind.REPORT: 4, TopicKind.TELEMETRY: 7}
    assert counters.refused == {TopicKind.WORK: 1, TopicKind.REPORT: 1}
    assert counters.dropped == {TopicKind.TELEMETRY: 3}
    assert bus.flush(0.05) == 4 + 4 + 4
    bus.close()


def test_closing_says_what_was_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    bus = unreachable()
    for _ in range(3):
        bus.publish(COMPILE, b"x")
    bus.close()
    assert f"{COMPILE}: 3 messages were not confirmed by the broker and are lost" in caplog.text
    with pytest.raises(BusClosed):
        bus.publish(COMPILE, b"x")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("outbox")]


def test_a_full_outbox_says_what_keeps_it_full() -> None:
    bus = unreachable()
    for _ in range(4):
        bus.publish(COMPILE, b"x")
    deadline = time.monotonic() + 20
    said = ""
    while "127.0.0.1:9" not in said and time.monotonic() < deadline:
        with pytest.raises(BusFull) as full:
            bus.publish(COMPILE, b"x")
        said = str(full.value)
        time.sleep(0.05)
    assert "127.0.0.1:9" in said
    bus.close()


def test_a_breaker_keeps_everybody_from_waiting_for_a_broker_that_is_away() -> None:
    link = Link(
        load_settings(service_url=NOWHERE, operation_timeout_seconds=1.0),
        CircuitBreaker("connection", failures=1, cooldown=600.0, longest_cooldown=600.0),
    )
    with pytest.raises(BusUnavailable):
        link.check(COMPILE)
    with pytest.raises(BusUnavailable, match="not tried, it failed too often"):
        link.check(COMPILE)
    link.close()
    with pytest.raises(BusClosed):
        link.attempt(COMPILE, lambda client: client)
