"""Delivery, dead letters and subscriptions, on every message bus."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import pytest

from buses import CAPACITY, PATIENCE, SILENCE, TOPICS, must_receive, publish_until_taken, refuse, take
from esper.errors import BusError
from esper.oona import (
    MAX_DELIVERIES,
    Bus,
    Subscription,
    SubscriptionBusy,
    UnknownDeadLetter,
)
from leyline.topics import SubscriptionType


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
    assert [m.data for m in take(first, 3)] == [m.data for m in take(second, 3)] == [b"\0", b"\1", b"\2"]


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
    assert 0 <= time.time() - letter.died_at < 60


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
    for _ in range(3 + MAX_DELIVERIES):
        message = must_receive(subscription)
        if message.data == b"\1":
            subscription.nack(message, "poison")
        else:
            good.append(message.data)
            subscription.ack(message)
    assert sorted(good) == [b"\0", b"\2", b"\3"]
    assert subscription.receive(SILENCE) is None
    assert [letter.data for letter in bus.dead_letters()] == [b"\1"]


def test_dead_letters_are_listed_by_topic_and_subscription(bus: Bus) -> None:
    subscriptions = [bus.subscribe(topic, name) for topic, name in [("work", "a"), ("work", "b"), ("reports", "a")]]
    bus.publish("work", b"w")
    bus.publish("reports", b"r")
    for subscription in subscriptions:
        refuse(subscription, MAX_DELIVERIES)
    assert len(bus.dead_letters()) == 3
    assert [(d.topic, d.subscription) for d in bus.dead_letters(topic="reports")] == [("reports", "a")]
    assert {(d.topic, d.subscription) for d in bus.dead_letters(subscription="a")} == {("work", "a"), ("reports", "a")}


def test_a_dead_letter_can_be_replayed_once(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    other = bus.subscribe("work", "other")
    bus.publish("work", b"x", message_id="m")
    other.ack(must_receive(other))
    refuse(subscription, MAX_DELIVERIES)
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
        refuse(subscription, MAX_DELIVERIES)
        (letter,) = bus.dead_letters()
        bus.replay(letter.letter_id)
    assert must_receive(subscription).data == b"x"


def test_a_dead_letter_can_be_discarded(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"x")
    refuse(subscription, MAX_DELIVERIES)
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


def test_one_busy_key_does_not_hold_up_another(bus: Bus) -> None:
    slow, fast = (bus.subscribe("work", "w", "key_shared") for _ in range(2))
    bus.publish("work", b"a1", key="a")
    first = must_receive(slow)
    bus.publish("work", b"a2", key="a")
    bus.publish("work", b"b1", key="b")
    assert must_receive(fast).data == b"b1"
    slow.ack(first)
    assert must_receive(fast).data == b"a2"


def test_exclusive_has_one_consumer_and_keeps_order(bus: Bus) -> None:
    only = bus.subscribe("commands", "kasmina", "exclusive")
    with pytest.raises(SubscriptionBusy):
        bus.subscribe("commands", "kasmina", "exclusive")
    for number in range(5):
        bus.publish("commands", bytes([number]))
    assert [m.data for m in take(only, 5)] == [bytes([n]) for n in range(5)]
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
    taken = take(second, 2)
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


def test_a_subscription_to_one_key_gets_nothing_else(bus: Bus) -> None:
    mine = bus.subscribe("commands", "kasmina.run-1", "exclusive", key="run-1")
    everything = bus.subscribe("commands", "watcher", "failover")
    for number, run in enumerate(["run-1", "run-2", "run-1"]):
        bus.publish("commands", bytes([number]), key=run)
    assert [m.data for m in take(mine, 2)] == [b"\0", b"\2"]
    assert len(take(everything, 3)) == 3
    with pytest.raises(SubscriptionBusy, match="run-2"):
        bus.subscribe("commands", "kasmina.run-1", "exclusive", key="run-2")


def test_a_subscription_can_be_given_up(bus: Bus) -> None:
    subscription = bus.subscribe("work", "w")
    bus.publish("work", b"x")
    with pytest.raises(SubscriptionBusy):
        bus.unsubscribe("work", "w")
    must_receive(subscription)
    subscription.close()
    bus.unsubscribe("work", "w")
    bus.unsubscribe("work", "never-there")
    assert [each.subscription for each in bus.backlog()] == []


def test_the_last_message_of_each_key_can_be_asked_for(bus: Bus) -> None:
    assert bus.latest("catalog") == {}
    for key, data in [("a", b"1"), ("b", b"2"), ("a", b"3")]:
        bus.publish("catalog", data, key=key, properties={"k": key}, message_id=data.decode())
    assert bus.flush(PATIENCE) == 0
    found = bus.latest("catalog")
    assert {key: (each.data, each.message_id) for key, each in found.items()} == {"a": (b"3", "3"), "b": (b"2", "2")}
    assert dict(found["a"].properties) == {"k": "a"}
    with pytest.raises(BusError, match="key"):
        bus.publish("catalog", b"no key")
    with pytest.raises(BusError, match="not compacted"):
        bus.latest("work")
