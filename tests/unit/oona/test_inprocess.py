from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from esper.oona import MAX_DELIVERIES, BusFull, InProcessBus, Message, Subscription
from leyline.topics import COMPILE, SubscriptionType, TopicKind
from leyline.topics import TOPICS as TOPICS_OF_RUNS

TOPICS = {
    kind.value: replace(TOPICS_OF_RUNS[COMPILE], name=kind.value, kind=kind)
    for kind in (TopicKind.WORK, TopicKind.TELEMETRY)
}


def test_a_refused_message_reaches_nobody() -> None:
    bus = InProcessBus(TOPICS, capacity={TopicKind.WORK: 2})
    roomy, full = bus.subscribe("work", "roomy"), bus.subscribe("work", "full")
    for _ in range(2):
        bus.publish("work", b"x")
        message = roomy.receive(0)
        assert message is not None
        roomy.ack(message)
    with pytest.raises(BusFull, match="work/full"):
        bus.publish("work", b"one too many")
    assert roomy.receive(0) is None
    assert full.receive(0) is not None


def test_open_messages_and_dead_letters_take_room() -> None:
    bus = InProcessBus(TOPICS, capacity={TopicKind.WORK: 2})
    subscription = bus.subscribe("work", "w")
    assert [each.capacity for each in bus.backlog()] == [2]
    bus.publish("work", b"x")
    bus.publish("work", b"y")
    held = [subscription.receive(0), subscription.receive(0)]
    with pytest.raises(BusFull):
        bus.publish("work", b"z")
    assert held[0] is not None
    assert held[1] is not None
    subscription.ack(held[1])
    message: Message | None = held[0]
    while message is not None:
        subscription.nack(message, "no")
        message = subscription.receive(0)
    assert len(bus.dead_letters()) == 1
    bus.publish("work", b"z")
    with pytest.raises(BusFull):
        bus.publish("work", b"z")


def test_telemetry_nobody_wants_is_counted_as_dropped() -> None:
    bus = InProcessBus(TOPICS)
    bus.publish("telemetry", b"x")
    assert bus.counters().dropped == {TopicKind.TELEMETRY: 1}


@pytest.mark.parametrize("kind", ["key_shared", "exclusive", "failover"])
def test_a_refused_message_goes_before_later_ones(kind: str) -> None:
    bus = InProcessBus(TOPICS)
    subscription = bus.subscribe("work", "w", kind)
    for number in range(3):
        bus.publish("work", bytes([number]), key="k")
    seen = []
    for _ in range(4):
        message = subscription.receive(0)
        assert message is not None
        seen.append(message.data[0])
        if message.data == b"\0" and message.delivery_count == 1:
            subscription.nack(message, "again")
        else:
            subscription.ack(message)
    assert seen == [0, 0, 1, 2]


def test_the_age_of_the_backlog_is_the_clocks() -> None:
    now = [10.0]
    bus = InProcessBus(TOPICS, clock=lambda: now[0])
    subscription = bus.subscribe("work", "w", "key_shared")
    bus.publish("work", b"1", key="k")
    now[0] = 14.0
    bus.publish("work", b"2", key="k")
    now[0] = 15.0
    assert bus.backlog()[0].oldest_seconds == 5.0
    assert subscription.receive(0) is not None
    assert subscription.receive(0) is None, "the key is busy: its next message is parked"
    assert (bus.backlog()[0].oldest_seconds, bus.backlog()[0].ready) == (1.0, 1)


def test_poisonous_telemetry_is_dropped_not_kept() -> None:
    bus = InProcessBus(TOPICS)
    subscription = bus.subscribe("telemetry", "t")
    bus.publish("telemetry", b"x")
    for _ in range(MAX_DELIVERIES):
        message = subscription.receive(0)
        assert message is not None
        subscription.nack(message, "no")
    assert bus.dead_letters() == []
    assert bus.counters().dropped == {TopicKind.TELEMETRY: 1}


def test_telemetry_that_is_all_being_handled_drops_the_newcomer() -> None:
    bus = InProcessBus(TOPICS, capacity={TopicKind.TELEMETRY: 2})
    subscription = bus.subscribe("telemetry", "t")
    bus.publish("telemetry", b"1")
    bus.publish("telemetry", b"2")
    held = [subscription.receive(0), subscription.receive(0)]
    bus.publish("telemetry", b"3")
    assert subscription.receive(0) is None
    assert all(message is not None and subscription.ack(message) for message in held)
    assert bus.counters().dropped == {TopicKind.TELEMETRY: 1}


def test_what_waits_for_a_first_subscription_is_bounded_too() -> None:
    bus = InProcessBus(TOPICS, capacity={TopicKind.WORK: 2})
    bus.publish("work", b"1")
    bus.publish("work", b"2")
    with pytest.raises(BusFull, match="no subscription yet"):
        bus.publish("work", b"3")
    subscription = bus.subscribe("work", "w")
    assert [m.data for m in (subscription.receive(0), subscription.receive(0)) if m] == [b"1", b"2"]


class BusMachine(RuleBasedStateMachine):
    """Publish, receive, answer and die in any order: nothing is lost, nothing is delivered more than it may be."""

    consumers: Bundle[Subscription] = Bundle("consumers")

    @initialize(kind=st.sampled_from(list(SubscriptionType)))
    def open(self, kind: SubscriptionType) -> None:
        self.kind = kind
        self.bus = InProcessBus(TOPICS, capacity={TopicKind.WORK: 6})
        self.live: list[Subscription] = []
        self.open_messages: list[tuple[Subscription, Message]] = []
        self.accepted: dict[str, tuple[str, int]] = {}
        self.finished: set[str] = set()
        self.deliveries: Counter[str] = Counter()
        self.number = 0
        self.bus.subscribe("work", "w", kind).close()

    @rule()
    def join(self) -> None:
        if self.kind is SubscriptionType.EXCLUSIVE and self.live:
            return
        self.live.append(self.bus.subscribe("work", "w", self.kind))

    @rule(key=st.sampled_from("ab"))
    def publish(self, key: str) -> None:
        waiting = self.bus.backlog()[0]
        full = waiting.ready + waiting.open + waiting.dead >= 6
        try:
            identity = self.bus.publish("work", key.encode(), key=key)
        except BusFull:
            assert full
            return
        assert not full
        self.accepted[identity] = (key, self.number)
        self.number += 1

    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        if not self.live:
            return
        subscription = data.draw(st.sampled_from(self.live))
        message = subscription.receive(0)
        if message is None:
            return
        self.deliveries[message.message_id] += 1
        assert message.message_id not in self.finished
        assert message.delivery_count == self.deliveries[message.message_id] <= MAX_DELIVERIES
        if self.kind is SubscriptionType.KEY_SHARED:
            assert message.key not in {held.key for _, held in self.open_messages}
            dead = {letter.message_id for letter in self.bus.dead_letters()}
            older = [
                other
                for other, (key, number) in self.accepted.items()
                if key == message.key and number < self.accepted[message.message_id][1]
            ]
            assert set(older) <= self.finished | dead
        if self.kind is SubscriptionType.FAILOVER:
            assert subscription is self.live[0]
        self.open_messages.append((subscription, message))

    @rule(data=st.data(), good=st.booleans())
    def answer(self, data: st.DataObject, good: bool) -> None:
        if not self.open_messages:
            return
        held = data.draw(st.sampled_from(self.open_messages))
        self.open_messages.remove(held)
        subscription, message = held
        if good:
            assert subscription.ack(message)
            self.finished.add(message.message_id)
        else:
            assert subscription.nack(message, "no")

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if not self.live:
            return
        subscription = data.draw(st.sampled_from(self.live))
        self.live.remove(subscription)
        subscription.close()
        self.open_messages = [held for held in self.open_messages if held[0] is not subscription]

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        letters = self.bus.dead_letters()
        if not letters:
            return
        letter = data.draw(st.sampled_from(letters))
        assert letter.deliveries == MAX_DELIVERIES == self.deliveries.pop(letter.message_id)
        self.bus.replay(letter.letter_id)
        self.accepted[letter.message_id] = (letter.key or "", self.number)
        self.number += 1

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "bus"):
            return
        (backlog,) = self.bus.backlog()
        assert backlog.open == len(self.open_messages)
        assert backlog.ready + backlog.open + backlog.dead + len(self.finished) == len(self.accepted)


TestBusMachine = BusMachine.TestCase
TestBusMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_the_contracts_topics_are_the_default() -> None:
    bus = InProcessBus()
    for topic in TOPICS_OF_RUNS.values():
        with bus.subscribe(topic.name, "all") as subscription:
            bus.publish(topic.name, b"x", key="k")
            message = subscription.receive(0)
            assert message is not None
            assert subscription.ack(message)
