"""Messages that wait for the broker are stored as bundles; whoever takes them sees single messages all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pulsar
import pytest
from pulsar.schema import ProtobufNativeSchema

from brokers import behind_gate, need_broker, settings_for
from buses import eventually, must_receive, take
from esper.oona import MAX_DELIVERIES, Inbox, Outcome, Subscription
from esper.oona.pulsar import PulsarBus, PulsarSettings, provision
from leyline.envelope import Draft, draft
from leyline.keys import KeyRing, Signer
from leyline.messages import FieldReport, encode, type_of
from leyline.topics import CATALOG, COMMANDS, COMPILE, EPOCHS, FIELD_REPORTS, SEED_HEALTH, TOPICS
from leyline.v1.bus_pb2 import Bundled, Envelope

COUNT = 200
SIGNER = Signer.ed25519("tamiyo-1", bytes(range(32)))


@pytest.fixture(scope="module")
def settings() -> PulsarSettings:
    made = settings_for(need_broker(), outbox_messages=1024)
    provision(made)
    return made


@dataclass
class Way:
    """A publisher the broker can't be reached by until ``go``, and a bus of a consumer."""

    published: PulsarBus
    bus: PulsarBus
    settings: PulsarSettings
    _gate: object

    def go(self) -> None:
        self._gate.open()
        assert self.published.flush(30) == 0

    def stored(self, topic: str, name: str) -> int:
        """What nobody has answered, as another process sees it: as the broker counts it."""
        other = PulsarBus(self.settings)
        with contextlib.closing(other):
            return next(each.ready for each in other.backlog() if (each.topic, each.subscription) == (topic, name))


@pytest.fixture
def way(settings: PulsarSettings) -> Iterator[Way]:
    with behind_gate(TOPICS, settings.namespace, outbox_messages=1024) as (gate, behind, around):
        yield Way(behind, around, settings, gate)


@contextlib.contextmanager
def subscribed(bus: PulsarBus, topic: str, name: str) -> Iterator[Subscription]:
    """A subscription of the test's own, gone afterwards with what it kept."""
    subscription = bus.subscribe(topic, name, TOPICS[topic].subscription)
    try:
        yield subscription
    finally:
        subscription.close()
        bus.unsubscribe(topic, name)


def report(number: int) -> Draft:
    payload = FieldReport(run="r", seed_id=f"seed-{number}")
    return draft(encode(payload), type_of(payload), FIELD_REPORTS, "tamiyo", number, SIGNER, 1.8e9, 600)


def inbox_of(subscription: Subscription) -> Inbox:
    ring = KeyRing()
    ring.add(SIGNER, producers={"tamiyo"}, topics={FIELD_REPORTS})
    return Inbox(subscription, ring, clock=lambda: 1.8e9 + 1)


@pytest.mark.parametrize("topic", [FIELD_REPORTS, EPOCHS, SEED_HEALTH])
def test_each_message_of_a_flood_arrives_once_and_in_order(way: Way, topic: str) -> None:
    with subscribed(way.bus, topic, "flood") as subscription:
        for number in range(COUNT):
            way.published.publish(
                topic, b"%d" % number, key="k", properties={"n": str(number)}, message_id=f"m{number}"
            )
        way.go()
        assert way.stored(topic, "flood") < COUNT / 8, "they were not bundled"
        taken = take(subscription, COUNT)
        assert [message.data for message in taken] == [b"%d" % number for number in range(COUNT)]
        assert [message.message_id for message in taken] == [f"m{number}" for number in range(COUNT)]
        assert {message.key for message in taken} == {"k"}
        assert [dict(message.properties) for message in taken] == [{"n": str(number)} for number in range(COUNT)]
        eventually(lambda: way.stored(topic, "flood") == 0)


@pytest.mark.parametrize("topic", [COMMANDS, COMPILE, CATALOG])
def test_work_commands_and_what_is_compacted_are_never_bundled(way: Way, topic: str) -> None:
    with subscribed(way.bus, topic, "singles") as subscription:
        for number in range(40):
            way.published.publish(topic, b"%d" % number, key="k")
        way.go()
        assert way.stored(topic, "singles") == 40
        take(subscription, 40)
    if topic == COMPILE:
        with way.bus.subscribe(topic, "tezzeret") as subscription:
            take(subscription, 40)
    if topic == CATALOG:
        with way.bus.subscribe(topic, "urza") as subscription:
            take(subscription, 40)


def test_keys_are_not_mixed_and_few_messages_or_large_ones_go_alone(way: Way) -> None:
    with subscribed(way.bus, SEED_HEALTH, "keys") as subscription:
        for number in range(120):
            way.published.publish(SEED_HEALTH, b"%d" % number, key="ab"[number // 40 % 2])
        for _ in range(15):
            way.published.publish(SEED_HEALTH, b"few", key="c")
        for _ in range(3):
            way.published.publish(SEED_HEALTH, bytes(100_000), key="large")
        way.go()
        assert way.stored(SEED_HEALTH, "keys") == 3 + 15 + 3
        got: dict[str | None, list[bytes]] = {}
        for message in take(subscription, 138):
            got.setdefault(message.key, []).append(message.data)
        assert got["a"] == [b"%d" % number for number in (*range(40), *range(80, 120))]
        assert got["b"] == [b"%d" % number for number in range(40, 80)]


def test_drafts_are_sealed_on_their_way_and_each_is_verified(way: Way) -> None:
    with subscribed(way.bus, FIELD_REPORTS, "sealed") as subscription:
        for number in range(COUNT):
            way.published.publish(FIELD_REPORTS, report(number), key="k")
        way.go()
        assert way.stored(FIELD_REPORTS, "sealed") < COUNT / 8
        inbox, seen = inbox_of(subscription), []
        while len(seen) < COUNT:
            assert inbox.take(lambda payload, *_: seen.append(payload.seed_id), 20) is Outcome.HANDLED
        assert seen == [f"seed-{number}" for number in range(COUNT)]
        assert inbox.take(lambda *_: None, 0.2) is None
        assert not inbox.refused


def test_one_that_fails_is_buried_alone_and_replayed_alone(way: Way) -> None:
    with subscribed(way.bus, FIELD_REPORTS, "poison") as subscription:
        for number in range(40):
            way.published.publish(FIELD_REPORTS, report(number), key="k", message_id=f"m{number}")
        way.go()
        inbox, handled = inbox_of(subscription), []

        def handle(payload: FieldReport, *_: object) -> None:
            if payload.seed_id == "seed-7":
                raise ValueError("seven")
            handled.append(payload.seed_id)

        for _ in range(39 + MAX_DELIVERIES):
            inbox.take(handle, 20)
        assert sorted(handled) == sorted(f"seed-{number}" for number in range(40) if number != 7)
        (letter,) = way.bus.dead_letters(FIELD_REPORTS, "poison")
        assert (letter.message_id, letter.deliveries, letter.cause) == ("m7", MAX_DELIVERIES, "ValueError: seven")
        eventually(lambda: way.stored(FIELD_REPORTS, "poison") == 0)
        way.bus.replay(letter.letter_id)
        assert inbox_of(subscription).take(lambda payload, *_: handled.append(payload.seed_id), 20) is Outcome.HANDLED
        assert handled[-1] == "seed-7", "its envelope holds without the others"


def test_what_was_answered_is_gone_though_the_rest_of_its_bundle_comes_again(way: Way) -> None:
    first = way.bus.subscribe(FIELD_REPORTS, "rest")
    for number in range(30):
        way.published.publish(FIELD_REPORTS, b"%d" % number, key="k")
    way.go()
    for number in range(12):
        message = must_receive(first)
        assert message.data == b"%d" % number
        first.ack(message)
    refused = must_receive(first)
    first.close()
    second = way.bus.subscribe(FIELD_REPORTS, "rest")
    again = must_receive(second)
    assert (again.message_id, again.delivery_count) == (refused.message_id, 2)
    second.ack(again)
    assert [message.data for message in take(second, 17)] == [b"%d" % number for number in range(13, 30)]
    eventually(lambda: way.stored(FIELD_REPORTS, "rest") == 0)
    second.close()
    way.bus.unsubscribe(FIELD_REPORTS, "rest")


KILLED = """
import os, signal, sys
from esper.oona.pulsar import PulsarBus, load_settings
subscription = PulsarBus(load_settings()).subscribe(sys.argv[1], sys.argv[2])
for _ in range(int(sys.argv[3])):
    message = subscription.receive(30)
    subscription.ack(message)
    print(message.message_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_bundle_outlives_the_consumer_that_dies_within_it(way: Way) -> None:
    way.bus.subscribe(FIELD_REPORTS, "dies").close()
    for number in range(30):
        way.published.publish(FIELD_REPORTS, b"%d" % number, key="k", message_id=f"m{number}")
    way.go()
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PULSAR_SERVICE_URL": way.settings.service_url, "ESPER_PULSAR_NAMESPACE": way.settings.namespace,
        "ESPER_PULSAR_TOKEN": way.settings.current_token() or "",
    }  # fmt: skip
    worker = subprocess.run(
        [sys.executable, "-c", KILLED, FIELD_REPORTS, "dies", "10"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    assert worker.stdout.split() == [f"m{number}" for number in range(10)]
    with way.bus.subscribe(FIELD_REPORTS, "dies") as subscription:
        assert [each.message_id for each in take(subscription, 30)] == [f"m{number}" for number in range(30)]
    way.bus.unsubscribe(FIELD_REPORTS, "dies")


@pytest.mark.parametrize(
    ("topic", "lie"),
    [
        (COMPILE, Envelope(bundle=[Bundled(sealed=b"work in a bundle")])),
        (FIELD_REPORTS, Envelope(sealed=b"one", bundle=[Bundled(sealed=b"two")])),
        (FIELD_REPORTS, Envelope(bundle=[Bundled()] * 65)),
        (FIELD_REPORTS, Envelope(bundle=[Bundled()] * 200_000)),
    ],
)
def test_a_bundle_that_may_not_be_reaches_no_handler(way: Way, topic: str, lie: Envelope) -> None:
    client = pulsar.Client(
        way.settings.service_url, authentication=pulsar.AuthenticationToken(way.settings.current_token() or "")
    )
    with subscribed(way.bus, topic, "liars") as subscription:
        client.create_producer(way.settings.topic(topic), schema=ProtobufNativeSchema(Envelope)).send(lie)
        way.bus.publish(topic, b"honest", key="a")
        assert [message.data for message in take(subscription, 1)] == [b"honest"]
        (letter,) = way.bus.dead_letters(topic, "liars")
        assert (letter.data, letter.deliveries) == (lie.SerializeToString(), 0)
        assert "bundle" in letter.cause
        way.bus.discard(letter.letter_id)
    client.close()
