"""Subscriptions for hardware targets, on every message bus: each takes its own, and is there in time or not."""

from __future__ import annotations

import pytest

from buses import SILENCE, eventually, must_receive, refuse, take
from esper.oona import MAX_DELIVERIES, Bus, SubscriptionBusy
from leyline.topics import TopicKind

ONE, OTHER = "x86_64-avx2", "cuda-sm90"


def artifact(number: int, hardware: str) -> str:
    return f"{number:016x}-{hardware}-fast-{'0' * 8}"


def publish(bus: Bus, *hardware: str) -> None:
    """One message for each of these, numbered."""
    for number, target in enumerate(hardware):
        bus.publish("work", bytes([number]), key=artifact(number, target))


def test_each_takes_what_is_for_it_and_has_nothing_to_do_with_the_rest(bus: Bus) -> None:
    one, other = bus.subscribe("work", "one", hardware=ONE), bus.subscribe("work", "other", hardware=OTHER)
    publish(bus, ONE, OTHER, OTHER, ONE)
    assert [each.data for each in take(one, 2)] == [b"\0", b"\3"]
    assert [each.data for each in take(other, 2)] == [b"\1", b"\2"]
    counted = bus.counters()
    assert counted.delivered.get(TopicKind.WORK) == counted.acknowledged.get(TopicKind.WORK) == 4
    assert not counted.redelivered.get(TopicKind.WORK)
    assert bus.dead_letters() == []
    eventually(lambda: all(each.ready + each.open == 0 for each in bus.backlog()))


def test_what_names_no_hardware_is_for_whoever_can_tell(bus: Bus) -> None:
    both = [bus.subscribe("work", "one", hardware=ONE), bus.subscribe("work", "other", hardware=OTHER)]
    for key in (None, "", "low_rank", artifact(1, ONE).upper(), f"{artifact(1, ONE)}\n"):
        bus.publish("work", b"x", key=key)
        assert [must_receive(each).data for each in both] == [b"x", b"x"]


def test_work_from_before_the_first_of_its_hardware_is_found(bus: Bus) -> None:
    """Though others have subscribed, taken what is theirs and passed over the rest."""
    watcher, one = bus.subscribe("work", "watcher"), bus.subscribe("work", "one", hardware=ONE)
    publish(bus, OTHER, ONE, OTHER)
    assert len(take(watcher, 3)) == 3
    assert len(take(one, 1)) == 1
    late = bus.subscribe("work", "other", hardware=OTHER)
    found = [must_receive(late) for _ in range(2)]
    assert [(each.data, each.delivery_count) for each in found] == [(b"\0", 1), (b"\2", 1)]
    for each in found:
        late.ack(each)
    late.close()
    publish(bus, OTHER)
    assert [each.data for each in take(bus.subscribe("work", "other", hardware=OTHER), 1)] == [b"\0"]


def test_work_that_nobody_at_all_had_subscribed_to_is_found_by_each(bus: Bus) -> None:
    publish(bus, ONE, OTHER)
    assert bus.flush(30) == 0
    for hardware, expected in ((OTHER, b"\1"), (ONE, b"\0")):
        assert [each.data for each in take(bus.subscribe("work", hardware, hardware=hardware), 1)] == [expected]


def test_what_a_closed_consumer_had_goes_to_the_next_of_its_hardware_only(bus: Bus) -> None:
    one, other = bus.subscribe("work", "one", hardware=ONE), bus.subscribe("work", "other", hardware=OTHER)
    publish(bus, ONE)
    must_receive(one)
    one.close()
    assert other.receive(SILENCE) is None
    again = must_receive(bus.subscribe("work", "one", hardware=ONE))
    assert (again.data, again.delivery_count) == (b"\0", 2)


def test_a_dead_letter_is_replayed_for_its_hardware_only(bus: Bus) -> None:
    one, other = bus.subscribe("work", "one", hardware=ONE), bus.subscribe("work", "other", hardware=OTHER)
    publish(bus, ONE)
    refuse(one, MAX_DELIVERIES)
    (letter,) = bus.dead_letters()
    assert letter.subscription == "one"
    bus.replay(letter.letter_id)
    assert must_receive(one).delivery_count == 1
    assert other.receive(SILENCE) is None


def test_a_subscription_is_for_one_hardware(bus: Bus) -> None:
    bus.subscribe("work", "one", hardware=ONE)
    bus.subscribe("work", "one", hardware=ONE)
    for hardware in (OTHER, None):
        with pytest.raises(SubscriptionBusy, match=ONE):
            bus.subscribe("work", "one", hardware=hardware)
