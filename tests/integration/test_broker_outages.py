"""The broker killed, and the broker paused, while messages flow: nothing lost, nothing acted on twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

import parts
from brokers import settings_for
from esper.oona import MAX_DELIVERIES, BusFull, Message, Subscription
from esper.oona.pulsar import PulsarBus, provision
from leyline.topics import COMPILE, FIELD_REPORTS, POLICY_UPDATES, PREFETCH_REQUEST, SEED_HEALTH, TopicKind
from mail import Diary, Sender, report, request
from real_pulsar import Broker

MESSAGES = 150
PATIENCE = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """One of its own: others must not feel what happens to it."""
    try:
        with parts.private("pulsar") as home, Broker(home) as started:
            yield started
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


@pytest.fixture
def buses(broker: Broker) -> Iterator[tuple[PulsarBus, PulsarBus]]:
    """A publisher's and a consumer's, as two processes would have them."""
    settings = settings_for(broker.address, operation_timeout_seconds=3.0, flush_seconds=0.0)
    provision(settings, patience=60.0)
    pair = PulsarBus(settings), PulsarBus(settings)
    yield pair
    for bus in pair:
        bus.close()


class Traffic:
    """Work and reports published one after the other by a thread, and consumers that act on them."""

    def __init__(self, buses: tuple[PulsarBus, PulsarBus]) -> None:
        publisher, consumer = buses
        self._work, self._reports = Sender(publisher, "weatherlight"), Sender(publisher)
        self.diaries = [
            Diary(consumer.subscribe(COMPILE, "tezzeret"), self._work.ring()),
            Diary(consumer.subscribe(FIELD_REPORTS, "urza"), self._reports.ring()),
        ]
        self.longest = 0.0
        self._threads = [threading.Thread(target=self._publish, daemon=True)]
        self._threads += [threading.Thread(target=self._consume, args=(each,), daemon=True) for each in self.diaries]
        self._done = threading.Event()

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        self._threads[0].join(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while any(len(diary.acted) < MESSAGES for diary in self.diaries) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)  # a second copy would come now
        self._done.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _publish(self) -> None:
        for number in range(MESSAGES):
            self._work.send(request(number))
            self._reports.send(report(number))
            time.sleep(0.02)

    def _consume(self, diary: Diary) -> None:
        while not self._done.is_set():
            diary.take(0.2)


def check(traffic: Traffic, buses: tuple[PulsarBus, PulsarBus]) -> None:
    for diary in traffic.diaries:
        assert len(diary.acted) == MESSAGES, "messages were lost"
        assert set(diary.acted.values()) == {1}, "a message was acted on twice"
        assert dict(diary.inbox.refused) == {}
    assert buses[0].flush(PATIENCE) == 0
    assert buses[1].dead_letters(COMPILE) == buses[1].dead_letters(FIELD_REPORTS) == []


def must_receive(subscription: Subscription) -> Message:
    message = subscription.receive(PATIENCE)
    assert message is not None
    return message


def test_a_broker_that_is_killed_and_comes_back_loses_nothing(
    broker: Broker, buses: tuple[PulsarBus, PulsarBus]
) -> None:
    publisher, consumer = buses
    policies, prefetches = (consumer.subscribe(topic, "x") for topic in (POLICY_UPDATES, PREFETCH_REQUEST))
    publisher.publish(POLICY_UPDATES, b"poison", key="p")
    publisher.publish(PREFETCH_REQUEST, b"kills who takes it", key="a")
    for _ in range(MAX_DELIVERIES):
        policies.nack(must_receive(policies), "poison")
    for delivery in range(1, MAX_DELIVERIES):
        message = must_receive(prefetches)
        assert message.delivery_count == delivery
        prefetches.nack(message, "not yet")
    traffic = Traffic(buses)
    traffic.begin()
    time.sleep(1.0)
    broker.kill()
    time.sleep(1.0)
    broker.start()
    traffic.finish()
    check(traffic, buses)
    # What had been said before is not forgotten: dead letters, and how often work was tried.
    message = must_receive(prefetches)
    assert message.last_delivery
    prefetches.nack(message, "and never")
    (killer,) = consumer.dead_letters(PREFETCH_REQUEST)
    assert (killer.deliveries, killer.cause) == (MAX_DELIVERIES, "and never")
    (poison,) = consumer.dead_letters(POLICY_UPDATES)
    assert poison.cause == "poison"
    consumer.replay(poison.letter_id)
    message = must_receive(policies)
    assert (message.data, message.delivery_count) == (b"poison", 1)


def test_a_broker_that_is_paused_loses_nothing(broker: Broker, buses: tuple[PulsarBus, PulsarBus]) -> None:
    traffic = Traffic(buses)
    traffic.begin()
    time.sleep(1.0)
    with broker.paused():
        time.sleep(6.0)
    traffic.finish()
    check(traffic, buses)


def test_what_is_published_while_the_broker_is_away_is_bounded_and_sent_later(
    broker: Broker, buses: tuple[PulsarBus, PulsarBus]
) -> None:
    publisher, consumer = buses
    sender = Sender(publisher)
    diary = Diary(consumer.subscribe(FIELD_REPORTS, "urza"), sender.ring())
    room = publisher.settings.outbox_messages
    with broker.paused():
        for number in range(room):
            sender.send(report(number))
        with pytest.raises(BusFull, match=f"{room} report messages wait for the broker"):
            sender.send(report(room))
        for _ in range(room + 10):
            publisher.publish(SEED_HEALTH, bytes(100), key="run")
        assert publisher.counters().dropped[TopicKind.TELEMETRY] == 10
    diary.take_until(room, PATIENCE)
    assert set(diary.acted.values()) == {1}
