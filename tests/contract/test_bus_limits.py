"""Room, counters, refusals and closing, on every message bus."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from buses import CAPACITY, PATIENCE, SILENCE, TOPICS, Stalled, eventually, must_receive, publish_until_taken, refuse
from esper.errors import BusError
from esper.oona import (
    MAX_DELIVERIES,
    MAX_MESSAGE_BYTES,
    Bus,
    BusClosed,
    BusFull,
    UnknownTopic,
)
from leyline.topics import TopicKind

Stall = Callable[[str], AbstractContextManager[Stalled]]


@pytest.mark.parametrize("topic", [name for name, topic in TOPICS.items() if not topic.may_drop])
def test_what_must_not_be_lost_is_refused_when_full(stalled: Stall, topic: str) -> None:
    with stalled(topic) as way:
        for number in range(CAPACITY):
            way.bus.publish(topic, bytes([number]), key="k")
        with pytest.raises(BusFull):
            way.bus.publish(topic, b"one too many", key="k")
        assert way.bus.counters().refused[TOPICS[topic].kind] == 1
        assert way.drain(CAPACITY) == [bytes([n]) for n in range(CAPACITY)]
        publish_until_taken(way.bus, topic, b"room again", "k")
        assert way.drain(1) == [b"room again"]


def test_telemetry_drops_its_oldest_and_is_counted(stalled: Stall) -> None:
    with stalled("telemetry") as way:
        for number in range(CAPACITY + 3):
            way.bus.publish("telemetry", bytes([number]))
        assert way.drain(CAPACITY) == [bytes([n]) for n in range(3, CAPACITY + 3)]
        counters = way.bus.counters()
        assert counters.dropped == {TopicKind.TELEMETRY: 3}
        assert counters.published[TopicKind.TELEMETRY] == CAPACITY + 3


def test_telemetry_nobody_wants_is_not_kept(bus: Bus) -> None:
    bus.publish("telemetry", b"x")
    assert bus.flush(PATIENCE) == 0
    assert bus.subscribe("telemetry", "t").receive(SILENCE) is None


def test_backlog_tells_how_far_behind_each_subscription_is(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.subscribe("reports", "e")
    for _ in range(3):
        bus.publish("work", b"x")
    held = must_receive(subscription)
    assert bus.flush(PATIENCE) == 0
    by_name = {(each.topic, each.subscription): each for each in bus.backlog()}
    assert list(by_name) == [("reports", "e"), ("work", "w")]
    work = by_name["work", "w"]
    assert (work.ready, work.open, work.dead, work.kind) == (2, 1, 0, TopicKind.WORK)
    assert work.oldest_seconds >= 0
    assert (by_name["reports", "e"].ready, by_name["reports", "e"].oldest_seconds) == (0, 0.0)
    for _ in range(MAX_DELIVERIES - 1):
        subscription.nack(held, "no")
        held = next(m for m in iter(lambda: must_receive(subscription), None) if m.message_id == held.message_id)
    subscription.nack(held, "no")
    assert [each.dead for each in bus.backlog() if each.topic == "work"] == [1]


def test_counters_follow_a_message_through(bus: Bus) -> None:
    subscription = bus.subscribe("reports", "r")
    bus.publish("reports", b"a")
    subscription.nack(must_receive(subscription), "again")
    subscription.ack(must_receive(subscription))
    bus.publish("reports", b"b")
    refuse(subscription, MAX_DELIVERIES)
    counters = bus.counters()
    seen = {name: getattr(counters, name).get(TopicKind.REPORT, 0) for name in type(counters).__slots__}
    assert seen == {
        "published": 2,
        "delivered": 2,
        "redelivered": MAX_DELIVERIES,
        "acknowledged": 1,
        "dropped": 0,
        "refused": 0,
        "dead": 1,
    }


def test_unknown_topics_are_refused(bus: Bus) -> None:
    with pytest.raises(UnknownTopic, match="wrok"):
        bus.publish("wrok", b"x")
    with pytest.raises(UnknownTopic, match="wrok"):
        bus.subscribe("wrok", "w")


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "../up", "a b", "x" * 200, "-dash", "n\0l"])
def test_hostile_subscription_names_are_refused(bus: Bus, name: str) -> None:
    with pytest.raises(BusError, match="subscription name"):
        bus.subscribe("work", name)


def test_oversized_messages_are_refused(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", bytes(MAX_MESSAGE_BYTES))
    assert len(must_receive(subscription).data) == MAX_MESSAGE_BYTES
    with pytest.raises(BusError, match="limit"):
        bus.publish("work", bytes(MAX_MESSAGE_BYTES + 1))


def test_what_is_published_cannot_be_changed_afterwards(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    data, properties = bytearray(b"before"), {"k": "before"}
    bus.publish("work", data, properties=properties)  # type: ignore[arg-type]
    data[:] = b"AFTER!"
    properties["k"] = "after"
    message = must_receive(subscription)
    assert (message.data, dict(message.properties)) == (b"before", {"k": "before"})


def test_closing_wakes_a_waiting_consumer(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    ended: list[Any] = []

    def wait() -> None:
        with pytest.raises(BusClosed):
            subscription.receive(None)
        ended.append(True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(SILENCE)
    bus.close()
    thread.join(PATIENCE)
    assert ended == [True]


def test_a_closed_bus_refuses_everything(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.close()
    bus.close()
    for action in (
        lambda: bus.publish("work", b"x"),
        lambda: bus.subscribe("work", "w"),
        lambda: subscription.receive(0),
    ):
        with pytest.raises(BusClosed):
            action()
    subscription.close()


def test_a_closed_handle_wakes_its_own_waiter_only(bus: Bus) -> None:
    first, second = bus.subscribe("work", "w"), bus.subscribe("work", "w")
    first.close()
    with pytest.raises(BusClosed):
        first.receive(0)
    bus.publish("work", b"x")
    assert must_receive(second).data == b"x"


def test_many_threads_lose_and_duplicate_nothing(bus: Bus) -> None:
    producers, consumers, each = 3, 3, 60
    handled: list[bytes] = []
    done = threading.Event()
    lock = threading.Lock()

    def produce(producer: int) -> None:
        for number in range(each):
            publish_until_taken(bus, "work", f"{producer}:{number}".encode())

    def consume() -> None:
        with bus.subscribe("work", "w") as subscription:
            while not done.is_set():
                message = subscription.receive(SILENCE)
                if message is None:
                    continue
                # Every seventh message is refused once: redelivered, never lost, never handled twice.
                if message.delivery_count == 1 and zlib.crc32(message.data) % 7 == 0:
                    subscription.nack(message, "once")
                    continue
                with lock:
                    handled.append(message.data)
                    if len(handled) >= producers * each:
                        done.set()
                subscription.ack(message)

    threads = [threading.Thread(target=consume, daemon=True) for _ in range(consumers)]
    threads += [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(producers)]
    for thread in threads:
        thread.start()
    assert done.wait(PATIENCE * 4)
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(handled) == sorted(f"{p}:{n}".encode() for p in range(producers) for n in range(each))
    eventually(lambda: [(b.ready, b.open, b.dead) for b in bus.backlog()] == [(0, 0, 0)])
