"""What verification lets through and what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from google.protobuf.message import Message as Payload

from esper.errors import BusError
from esper.oona import MAX_DELIVERIES, Inbox, InProcessBus, Message, Outcome
from leyline.envelope import MAX_ENVELOPE, MAX_TTL, Opened
from leyline.keys import Signer
from leyline.replay import ReplayGuard
from leyline.topics import COMMANDS, COMPILE, FIELD_REPORTS
from mail import Sender, name_of, report, request


class Consumer:
    """An inbox on the work topic, with what it acted on."""

    def __init__(self, bus: InProcessBus, sender: Sender, topic: str = COMPILE) -> None:
        self.subscription = bus.subscribe(topic, "w")
        self.inbox = Inbox(self.subscription, sender.ring())
        self.acted: list[Payload] = []
        self.problem: Exception | None = None

    def act(self, payload: Payload, opened: Opened, message: Message) -> None:
        assert opened.topic == message.topic
        if self.problem is not None:
            raise self.problem
        self.acted.append(payload)

    def take(self) -> Outcome | None:
        return self.inbox.take(self.act, 0)

    def take_all(self) -> list[Outcome]:
        return list(iter(self.take, None))  # type: ignore[arg-type]


@pytest.fixture
def bus() -> Iterator[InProcessBus]:
    opened = InProcessBus()
    yield opened
    opened.close()


@pytest.fixture
def sender(bus: InProcessBus) -> Sender:
    return Sender(bus, "weatherlight")


@pytest.fixture
def consumer(bus: InProcessBus, sender: Sender) -> Consumer:
    return Consumer(bus, sender)


def test_a_good_message_is_acted_on_once(sender: Sender, consumer: Consumer) -> None:
    sender.send(request(1))
    assert consumer.take_all() == [Outcome.HANDLED]
    assert consumer.acted == [request(1)]


def test_a_copy_under_the_same_id_is_acknowledged_and_not_acted_on(
    bus: InProcessBus, sender: Sender, consumer: Consumer
) -> None:
    data = sender.sealed(request(1))
    for _ in range(3):
        bus.publish(COMPILE, data, key="a", message_id="m")
    assert consumer.take_all() == [Outcome.HANDLED, Outcome.REPEATED, Outcome.REPEATED]
    assert (len(consumer.acted), dict(consumer.inbox.refused), bus.dead_letters()) == (1, {}, [])


def test_a_recorded_message_under_another_id_is_refused(bus: InProcessBus, sender: Sender, consumer: Consumer) -> None:
    data = sender.sealed(request(1))
    bus.publish(COMPILE, data, key="a")
    bus.publish(COMPILE, data, key="a")
    assert consumer.take_all() == [Outcome.HANDLED, *[Outcome.REFUSED] * MAX_DELIVERIES]
    assert len(consumer.acted) == 1
    assert dict(consumer.inbox.refused) == {"ReplayedEnvelope": MAX_DELIVERIES}
    (letter,) = bus.dead_letters()
    assert letter.cause.startswith("ReplayedEnvelope: ")


def test_a_handler_that_always_fails_ends_in_a_dead_letter_with_its_cause(
    bus: InProcessBus, sender: Sender, consumer: Consumer
) -> None:
    consumer.problem = OSError("disk full")
    sender.send(request(1))
    assert consumer.take_all() == [Outcome.FAILED] * MAX_DELIVERIES
    (letter,) = bus.dead_letters()
    assert letter.cause == "OSError: disk full"
    consumer.problem = None
    bus.replay(letter.letter_id)
    assert consumer.take_all() == [Outcome.HANDLED]
    assert consumer.acted == [request(1)]


def bad(kind: str, sender: Sender) -> bytes:
    good = sender.sealed(request(1))
    stranger = Sender(sender._bus, "weatherlight")
    match kind:
        case "ForgedEnvelope":
            return good[:-70] + bytes([good[-70] ^ 1]) + good[-69:]
        case "UnknownKey":
            stranger.signer = Signer.generate("nobody knows me".replace(" ", "-"))
            return stranger.sealed(request(1))
        case "StaleEnvelope":
            return sender.sealed(request(1), now=time.time() - MAX_TTL)
        case "WrongTopic":
            return Sender(sender._bus, "tamiyo").sealed(report(1))
        case "empty":
            return b""
        case "huge":
            return good + bytes(MAX_ENVELOPE)
        case "unknown type":
            return good.replace(b"KernelCompileRequest", b"KernelCompileRequesu")
        case "unknown version":
            return good.replace(b"ESPER-ENVELOPE-1", b"ESPER-ENVELOPE-2")
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("ForgedEnvelope", "ForgedEnvelope"),
        ("UnknownKey", "UnknownKey"),
        ("StaleEnvelope", "StaleEnvelope"),
        ("WrongTopic", "WrongTopic"),
        ("empty", "MalformedEnvelope"),
        ("huge", "MalformedEnvelope"),
        ("unknown type", "WrongTopic"),
        ("unknown version", "MalformedEnvelope"),
    ],
)
def test_what_is_not_a_good_envelope_is_refused_counted_and_kept_with_its_cause(
    kind: str, error: str, bus: InProcessBus, sender: Sender, consumer: Consumer
) -> None:
    bus.publish(COMPILE, bad(kind, sender), key="a")
    sender.send(request(2))
    outcomes = consumer.take_all()
    assert outcomes.count(Outcome.REFUSED) == MAX_DELIVERIES
    assert consumer.acted == [request(2)], "what follows is not held up"
    assert dict(consumer.inbox.refused) == {error: MAX_DELIVERIES}
    (letter,) = bus.dead_letters()
    assert letter.cause.startswith(f"{error}: ")


def test_ten_megabytes_are_refused_before_they_are_sent(bus: InProcessBus) -> None:
    with pytest.raises(BusError, match="10000000 bytes is above the limit"):
        bus.publish(COMPILE, bytes(10_000_000))


def test_an_order_for_another_topic_is_not_taken(bus: InProcessBus, sender: Sender) -> None:
    consumer = Consumer(bus, sender, FIELD_REPORTS)
    bus.publish(FIELD_REPORTS, sender.sealed(request(1)))
    assert set(consumer.take_all()) == {Outcome.REFUSED}
    assert dict(consumer.inbox.refused) == {"WrongTopic": MAX_DELIVERIES}
    assert COMMANDS not in {letter.topic for letter in bus.dead_letters()}


def test_a_full_guard_holds_messages_up_and_loses_none(bus: InProcessBus, sender: Sender) -> None:
    now = [time.time()]
    subscription = bus.subscribe(COMPILE, "w")
    inbox = Inbox(subscription, sender.ring(), ReplayGuard(capacity=2), clock=lambda: now[0])
    acted: list[str] = []

    def take() -> Outcome | None:
        return inbox.take(lambda payload, _, __: acted.append(name_of(payload)), 0)

    brief = Sender(bus, "weatherlight", ttl=10.0)
    brief.signer = sender.signer
    for number in range(2):
        brief.send(request(number))
    for number in range(2, 5):
        sender.send(request(number))
    assert [take() for _ in range(4)] == [Outcome.HANDLED, Outcome.HANDLED, None, None]
    now[0] += 11.0  # the first two can't be opened any more and need not be remembered
    assert [take() for _ in range(3)] == [Outcome.HANDLED, Outcome.HANDLED, None]
    now[0] += 3600.0 - 60.0
    assert take() is None, "they are fresh for an hour"
    assert acted == [f"artifact-{number}" for number in range(4)]
    assert dict(inbox.refused) == {}
    assert bus.dead_letters() == []
