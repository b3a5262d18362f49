"""What every message bus must do. A new adapter joins by one entry in ``ADAPTERS``."""

from __future__ import annotations

import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from esper.errors import BusError
from esper.oona import (
    MAX_DELIVERIES,
    MAX_MESSAGE_BYTES,
    Bus,
    BusClosed,
    BusFull,
    InProcessBus,
    Message,
    Subscription,
    SubscriptionBusy,
    UnknownDeadLetter,
    UnknownTopic,
)
from leyline.topics import COMPILE, SubscriptionType, TopicKind
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


@pytest.fixture(params=sorted(ADAPTERS))
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    opened = ADAPTERS[request.param]()
    yield opened
    opened.close()


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


def test_is_a_bus(bus: Bus) -> None:
    assert isinstance(bus, Bus)
    assert isinstance(bus.subscribe("work", "w"), Subscription)


def test_carries_everything_it_was_given(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    identity = bus.publish("work", b"\x00payload", key="k", properties={"a": "b"}, message_id="m-1")
    message = must_receive(subscription)
    assert identity == message.message_id == "m-1"
    assert (message.topic, message.subscription, message.data) == ("work", "w", b"\x00payload")
    assert (message.key, dict(message.properties), message.delivery_count) == ("k", {"a": "b"}, 1)


def test_ids_it_makes_up_differ(bus: Bus) -> None:
    assert len({bus.publish("work", b"") for _ in range(CAPACITY)}) == CAPACITY


def test_every_subscription_gets_every_message(bus: Bus) -> None:
    first, second = bus.subscribe("reports", "first"), bus.subscribe("reports", "second")
    for number in range(3):
        bus.publish("reports", bytes([number]))
    assert [m.data for m in take_all(first)] == [m.data for m in take_all(second)] == [b"\0", b"\1", b"\2"]


def test_topics_are_apart(bus: Bus) -> None:
    work, commands = bus.subscribe("work", "s"), bus.subscribe("commands", "s")
    bus.publish("work", b"w")
    assert commands.receive(SILENCE) is None
    assert must_receive(work).data == b"w"


def test_what_came_before_the_first_subscription_is_kept(bus: Bus) -> None:
    bus.publish("work", b"early")
    assert must_receive(bus.subscribe("work", "w")).data == b"early"


def test_a_subscription_outlives_its_consumer(bus: Bus) -> None:
    bus.subscribe("work", "w").close()
    bus.publish("work", b"while away")
    assert must_receive(bus.subscribe("work", "w")).data == b"while away"


@pytest.mark.parametrize("kind", list(SubscriptionType))
def test_acknowledged_is_gone(bus: Bus, kind: SubscriptionType) -> None:
    subscription = bus.subscribe("work", "w", kind)
    bus.publish("work", b"x")
    assert subscription.ack(must_receive(subscription)) is True
    assert subscription.receive(SILENCE) is None
    subscription.close()
    assert bus.subscribe("work", "w", kind).receive(SILENCE) is None


@pytest.mark.parametrize("kind", list(SubscriptionType))
def test_refused_comes_again_with_the_same_id_and_a_higher_count(bus: Bus, kind: SubscriptionType) -> None:
    subscription = bus.subscribe("work", "w", kind)
    bus.publish("work", b"x", key="k", properties={"p": "q"}, message_id="m")
    for delivery in range(1, MAX_DELIVERIES + 1):
        message = must_receive(subscription)
        assert (message.message_id, message.delivery_count, message.data) == ("m", delivery, b"x")
        assert (message.key, dict(message.properties)) == ("k", {"p": "q"})
        assert message.last_delivery is (delivery == MAX_DELIVERIES)
        if not message.last_delivery:
            assert subscription.nack(message, "not now") is True
    subscription.ack(message)
    assert bus.dead_letters() == []


@pytest.mark.parametrize("kind", list(SubscriptionType))
def test_a_closed_consumers_open_messages_go_to_the_next(bus: Bus, kind: SubscriptionType) -> None:
    gone = bus.subscribe("work", "w", kind)
    bus.publish("work", b"x", message_id="m")
    taken = must_receive(gone)
    gone.close()
    again = must_receive(bus.subscribe("work", "w", kind))
    assert (again.message_id, again.delivery_count) == ("m", 2)
    assert gone.ack(taken) is False


def test_answering_twice_is_harmless(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"x")
    message = must_receive(subscription)
    assert subscription.ack(message)
    assert not subscription.ack(message)
    assert not subscription.nack(message, "late")
    assert subscription.receive(SILENCE) is None


def test_after_the_last_delivery_it_is_a_dead_letter_with_its_cause(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"poison", key="k", properties={"run": "r"}, message_id="m")
    for delivery in range(MAX_DELIVERIES):
        subscription.nack(must_receive(subscription), f"cause {delivery + 1}")
    assert subscription.receive(SILENCE) is None
    (letter,) = bus.dead_letters()
    assert (letter.topic, letter.subscription, letter.message_id) == ("work", "w", "m")
    assert (letter.data, letter.key, dict(letter.properties)) == (b"poison", "k", {"run": "r"})
    assert (letter.deliveries, letter.cause) == (MAX_DELIVERIES, f"cause {MAX_DELIVERIES}")


def test_consumers_that_die_make_a_dead_letter_too(bus: Bus) -> None:
    bus.publish("work", b"kills its consumer")
    for _ in range(MAX_DELIVERIES):
        subscription = bus.subscribe("work", "w")
        must_receive(subscription)
        subscription.close()
    (letter,) = bus.dead_letters("work", "w")
    assert "closed" in letter.cause


def test_a_poison_message_does_not_hold_up_the_others(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    for number in range(4):
        bus.publish("work", bytes([number]))
    good = []
    while (message := subscription.receive(SILENCE)) is not None:
        if message.data == b"\1":
            subscription.nack(message, "poison")
        else:
            good.append(message.data)
            subscription.ack(message)
    assert sorted(good) == [b"\0", b"\2", b"\3"]
    assert [letter.data for letter in bus.dead_letters()] == [b"\1"]


def test_dead_letters_are_listed_by_topic_and_subscription(bus: Bus) -> None:
    subscriptions = [bus.subscribe(topic, name) for topic, name in [("work", "a"), ("work", "b"), ("reports", "a")]]
    bus.publish("work", b"w")
    bus.publish("reports", b"r")
    for subscription in subscriptions:
        for _ in range(MAX_DELIVERIES):
            subscription.nack(must_receive(subscription), "no")
    assert len(bus.dead_letters()) == 3
    assert [(d.topic, d.subscription) for d in bus.dead_letters(topic="reports")] == [("reports", "a")]
    assert {(d.topic, d.subscription) for d in bus.dead_letters(subscription="a")} == {("work", "a"), ("reports", "a")}


def test_a_dead_letter_can_be_replayed_once(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    other = bus.subscribe("work", "other")
    bus.publish("work", b"x", message_id="m")
    other.ack(must_receive(other))
    for _ in range(MAX_DELIVERIES):
        subscription.nack(must_receive(subscription), "no")
    (letter,) = bus.dead_letters()
    bus.replay(letter.letter_id)
    assert bus.dead_letters() == []
    message = must_receive(subscription)
    assert (message.message_id, message.data, message.delivery_count) == ("m", b"x", 1)
    assert other.receive(SILENCE) is None, "only the subscription it died on sees it again"
    with pytest.raises(UnknownDeadLetter):
        bus.replay(letter.letter_id)


def test_a_replayed_letter_may_die_again(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"x")
    for _ in range(2):
        for _ in range(MAX_DELIVERIES):
            subscription.nack(must_receive(subscription), "no")
        (letter,) = bus.dead_letters()
        bus.replay(letter.letter_id)
    assert must_receive(subscription).data == b"x"


def test_a_dead_letter_can_be_discarded(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"x")
    for _ in range(MAX_DELIVERIES):
        subscription.nack(must_receive(subscription), "no")
    (letter,) = bus.dead_letters()
    bus.discard(letter.letter_id)
    assert bus.dead_letters() == []
    with pytest.raises(UnknownDeadLetter):
        bus.discard(letter.letter_id)


def test_shared_consumers_compete(bus: Bus) -> None:
    consumers = [bus.subscribe("work", "w") for _ in range(2)]
    for number in range(4):
        bus.publish("work", bytes([number]))
    held = [[must_receive(consumer) for _ in range(2)] for consumer in consumers]
    assert sorted(m.data for each in held for m in each) == [b"\0", b"\1", b"\2", b"\3"]


def test_key_shared_keeps_each_keys_order_across_consumers(bus: Bus) -> None:
    keys = ["a", "b", "c"]
    rounds = 60
    handled: dict[str, list[int]] = defaultdict(list)
    at_work: dict[str, int] = defaultdict(int)
    overlaps: list[str] = []
    done = threading.Event()
    lock = threading.Lock()

    def work(subscription: Subscription) -> None:
        while not done.is_set():
            message = subscription.receive(SILENCE)
            if message is None:
                continue
            key = message.key or ""
            with lock:
                at_work[key] += 1
                if at_work[key] > 1:
                    overlaps.append(key)
            time.sleep(0)
            with lock:
                handled[key].append(int(message.data))
                at_work[key] -= 1
                if sum(map(len, handled.values())) == rounds * len(keys):
                    done.set()
            subscription.ack(message)

    threads = [
        threading.Thread(target=work, args=(bus.subscribe("work", "w", "key_shared"),), daemon=True) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        for key in keys:
            publish_until_taken(bus, "work", str(number).encode(), key)
    assert done.wait(PATIENCE * 4)
    for thread in threads:
        thread.join()
    assert overlaps == []
    assert handled == {key: list(range(rounds)) for key in keys}


def publish_until_taken(bus: Bus, topic: str, data: bytes, key: str | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            bus.publish(topic, data, key=key)
            return
        except BusFull:
            assert time.monotonic() < deadline, "the queue never emptied"
            time.sleep(0.001)


def test_one_busy_key_does_not_hold_up_another(bus: Bus) -> None:
    slow, fast = (bus.subscribe("work", "w", "key_shared") for _ in range(2))
    bus.publish("work", b"a1", key="a")
    first = must_receive(slow)
    bus.publish("work", b"a2", key="a")
    bus.publish("work", b"b1", key="b")
    assert must_receive(fast).data == b"b1"
    slow.ack(first)
    assert b"a2" in [m.data for m in take_all(slow) + take_all(fast)]


def test_exclusive_has_one_consumer_and_keeps_order(bus: Bus) -> None:
    only = bus.subscribe("commands", "kasmina", "exclusive")
    with pytest.raises(SubscriptionBusy):
        bus.subscribe("commands", "kasmina", "exclusive")
    for number in range(5):
        bus.publish("commands", bytes([number]))
    assert [m.data for m in take_all(only)] == [bytes([n]) for n in range(5)]
    only.close()
    bus.subscribe("commands", "kasmina", "exclusive")


def test_failover_takes_over_in_order(bus: Bus) -> None:
    first, second = (bus.subscribe("commands", "c", "failover") for _ in range(2))
    for number in range(3):
        bus.publish("commands", bytes([number]))
    first.ack(must_receive(first))
    assert second.receive(SILENCE) is None
    open_message = must_receive(first)
    first.close()
    taken = take_all(second)
    assert [m.data for m in taken] == [b"\1", b"\2"]
    assert taken[0].message_id == open_message.message_id


def test_without_a_kind_it_is_the_topics_own(bus: Bus) -> None:
    assert TOPICS["work"].subscription is SubscriptionType.SHARED
    bus.subscribe("work", "w")
    bus.subscribe("work", "w", SubscriptionType.SHARED)
    with pytest.raises(SubscriptionBusy):
        bus.subscribe("work", "w", SubscriptionType.FAILOVER)


def test_a_subscription_keeps_its_kind(bus: Bus) -> None:
    bus.subscribe("work", "w", "shared")
    with pytest.raises(SubscriptionBusy, match=r"shared.*exclusive"):
        bus.subscribe("work", "w", "exclusive")


@pytest.mark.parametrize("topic", [name for name, topic in TOPICS.items() if not topic.may_drop])
def test_what_must_not_be_lost_is_refused_when_full(bus: Bus, topic: str) -> None:
    roomy = bus.subscribe(topic, "roomy")
    subscription = bus.subscribe(topic, "s")
    for number in range(CAPACITY):
        bus.publish(topic, bytes([number]))
        roomy.ack(must_receive(roomy))
    with pytest.raises(BusFull):
        bus.publish(topic, b"one too many")
    assert roomy.receive(SILENCE) is None, "a refused message reaches nobody"
    assert bus.counters().refused[TOPICS[topic].kind] == 1
    assert [m.data for m in take_all(subscription)] == [bytes([n]) for n in range(CAPACITY)]
    bus.publish(topic, b"room again")


def test_open_messages_and_dead_letters_take_room(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    for _ in range(CAPACITY):
        bus.publish("work", b"x")
    held = [must_receive(subscription) for _ in range(CAPACITY)]
    with pytest.raises(BusFull):
        bus.publish("work", b"x")
    for message in held[1:]:
        subscription.ack(message)
    message = held[0]
    for _ in range(MAX_DELIVERIES - 1):
        subscription.nack(message, "no")
        message = must_receive(subscription)
    subscription.nack(message, "no")
    for _ in range(CAPACITY - 1):
        bus.publish("work", b"x")
    with pytest.raises(BusFull):
        bus.publish("work", b"x")


def test_telemetry_drops_its_oldest_and_is_counted(bus: Bus) -> None:
    subscription = bus.subscribe("telemetry", "t")
    for number in range(CAPACITY + 3):
        bus.publish("telemetry", bytes([number]))
    assert [m.data for m in take_all(subscription)] == [bytes([n]) for n in range(3, CAPACITY + 3)]
    counters = bus.counters()
    assert counters.dropped == {TopicKind.TELEMETRY: 3}
    assert counters.published[TopicKind.TELEMETRY] == CAPACITY + 3


def test_telemetry_nobody_wants_is_counted_as_dropped(bus: Bus) -> None:
    bus.publish("telemetry", b"x")
    assert bus.counters().dropped == {TopicKind.TELEMETRY: 1}
    assert bus.subscribe("telemetry", "t").receive(SILENCE) is None


def test_backlog_tells_how_far_behind_each_subscription_is(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.subscribe("reports", "e")
    for _ in range(3):
        bus.publish("work", b"x")
    held = must_receive(subscription)
    by_name = {(each.topic, each.subscription): each for each in bus.backlog()}
    assert list(by_name) == [("reports", "e"), ("work", "w")]
    work = by_name["work", "w"]
    assert (work.ready, work.open, work.dead, work.kind, work.capacity) == (2, 1, 0, TopicKind.WORK, CAPACITY)
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
    for _ in range(MAX_DELIVERIES):
        subscription.nack(must_receive(subscription), "no")
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
    bus.publish("work", bytes(MAX_MESSAGE_BYTES))
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
    assert [(b.ready, b.open, b.dead) for b in bus.backlog()] == [(0, 0, 0)]
