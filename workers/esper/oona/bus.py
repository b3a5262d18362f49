"""The port of the message bus: what a caller may rely on, whatever carries the messages.

Delivery is at least once. A message is *delivered* by ``receive`` and *open* until it is acknowledged, refused
(``nack``) or its subscription handle is closed; in the last two cases it is delivered again, with the same message id
and a higher ``delivery_count``. After ``MAX_DELIVERIES`` deliveries it becomes a dead letter that keeps its cause.
Deliveries of work are counted beyond the death of a consumer and of the broker; those of other kinds by the processes
that live.

Order:

* ``shared``: consumers compete; no order is promised between them.
* ``key_shared``: messages of one key are handled one after the other, in the order they were published.
* ``exclusive``: one consumer, in order. ``failover``: in order to the oldest open consumer; the next takes over.

Publishing never waits. What waits is bounded: in one process by each subscription's queue, through a broker by the
publisher's outbox, which holds what the broker has not confirmed. A topic's kind decides what happens when that is
full: commands, work and reports are refused with ``BusFull`` (the publisher keeps them and tries later), telemetry
drops its oldest and is counted. ``flush`` waits until nothing is in the outbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Protocol, Self, runtime_checkable

from esper.errors import BusError
from leyline.envelope import Draft
from leyline.topics import SubscriptionType, TopicKind

MAX_DELIVERIES = 4
"""Deliveries of one message to one subscription before it becomes a dead letter."""
MAX_MESSAGE_BYTES = 5 * 1024 * 1024 - 4096
"""Largest payload: the limit a broker has by default, less room for its frame. Every adapter holds it."""


class BusFull(BusError):
    """A queue or outbox that never drops is at its capacity; keep the message and publish it again later."""


class BusClosed(BusError):
    """The bus was closed while, or before, it was used."""


class BusUnavailable(BusError):
    """The broker can't be reached or does not let this process in; the text names its address."""


class BusNotReady(BusUnavailable):
    """The broker can't be reached, or answers that it can't do it now; the same may work a moment later."""


class UnknownTopic(BusError):
    """The topic is not in the table of topics."""


class SubscriptionBusy(BusError):
    """An exclusive subscription already has its consumer, or the name is in use with another kind."""


class UnknownDeadLetter(BusError):
    """No dead letter has this id; it was replayed or discarded before."""


_NO_PROPERTIES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery. ``message_id`` is the same on every redelivery; ``delivery_count`` starts at 1."""

    topic: str
    subscription: str
    message_id: str
    data: bytes
    key: str | None
    properties: Mapping[str, str]
    delivery_count: int
    receipt: int = field(repr=False)

    @property
    def last_delivery(self) -> bool:
        """Whether refusing this delivery makes the message a dead letter."""
        return self.delivery_count >= MAX_DELIVERIES


@dataclass(frozen=True, slots=True)
class Latest:
    """The last message of a key on a compacted topic."""

    topic: str
    message_id: str
    data: bytes
    key: str
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message given up on. ``cause`` is what the last consumer said, ``died_at`` when: seconds since 1970."""

    letter_id: str
    topic: str
    subscription: str
    message_id: str
    data: bytes
    key: str | None
    properties: Mapping[str, str]
    deliveries: int
    cause: str
    died_at: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far one subscription is behind, in messages; ``oldest_seconds`` is the age of the oldest in ``ready``.

    ``open`` are deliveries this process has not answered; those of other processes count as ``ready``. ``capacity`` is
    ``None`` where the subscription itself is not bounded by a number of messages.
    """

    topic: str
    subscription: str
    kind: TopicKind
    ready: int
    open: int
    dead: int
    capacity: int | None
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Messages that this process published and was given since the bus was opened, by kind of traffic.

    ``dropped``: telemetry that found no room, nobody to take it, or no consumer that could handle it.
    """

    published: Mapping[TopicKind, int]
    delivered: Mapping[TopicKind, int]
    redelivered: Mapping[TopicKind, int]
    acknowledged: Mapping[TopicKind, int]
    dropped: Mapping[TopicKind, int]
    refused: Mapping[TopicKind, int]
    dead: Mapping[TopicKind, int]


@runtime_checkable
class Subscription(Protocol):
    """A consumer's handle. Safe to use from several threads; closing it gives its open messages back."""

    @property
    def topic(self) -> str:
        """The topic subscribed to."""

    @property
    def name(self) -> str:
        """The subscription's name; consumers with the same name share its messages."""

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait up to ``timeout`` seconds (``None``: until there is one) for a message.

        Returns ``None`` when the time is over. Raises ``BusClosed`` when the bus or this handle is closed.
        """

    def ack(self, message: Message) -> bool:
        """Finish a delivery; ``False`` when it was no longer open (it was given back before)."""

    def nack(self, message: Message, cause: str) -> bool:
        """Refuse a delivery so that it comes again, or becomes a dead letter; ``False`` when it was no longer open."""

    def close(self) -> None:
        """Stop consuming. The subscription's name, and what is queued under it, stay."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Bus(Protocol):
    """Publish and subscribe; see the module for what is promised."""

    def publish(
        self,
        topic: str,
        data: bytes | Draft,
        *,
        key: str | None = None,
        properties: Mapping[str, str] = _NO_PROPERTIES,
        message_id: str | None = None,
    ) -> str:
        """Hand ``data`` to every subscription of ``topic`` without waiting; returns the message id.

        A draft is sealed by the bus, on a broker together with those that wait beside it.
        Work and reports published before the first subscription of a topic exists are kept for it.
        Raises ``BusFull`` (then no subscription got it), ``UnknownTopic``, ``BusClosed``; ``BusError`` for a payload
        above ``MAX_MESSAGE_BYTES`` or, on a compacted topic, without a key.
        """

    def flush(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds until the bus has all that was published; returns how much it has not."""

    def subscribe(
        self,
        topic: str,
        name: str,
        kind: SubscriptionType | str | None = None,
        *,
        key: str | None = None,
        hardware: str | None = None,
    ) -> Subscription:
        """Join the subscription ``name`` of ``topic``, creating it on first use; ``None`` takes the topic's own kind.

        With ``key`` it takes the messages of that key only, such as those of one run; the others are done with.
        With ``hardware`` it takes the messages of artifacts for that target, by their key, which is the artifact's id;
        those of other targets are done with and counted nowhere, those whose key is no artifact's id are taken. When
        it is new it begins with what is kept for that target, whoever else has subscribed before.
        Raises ``SubscriptionBusy`` for a second exclusive consumer, another kind, key or hardware; ``UnknownTopic``,
        ``BusClosed``, ``BusUnavailable``.
        """

    def unsubscribe(self, topic: str, name: str) -> None:
        """Forget a subscription and what waits under it, as a run does that has ended; unknown names are ignored.

        Raises ``SubscriptionBusy`` while it has a consumer.
        """

    def latest(self, topic: str) -> Mapping[str, Latest]:
        """The last message of each key on a compacted topic; raises ``BusError`` for a topic that is not compacted."""

    def dead_letters(self, topic: str | None = None, subscription: str | None = None) -> list[DeadLetter]:
        """Dead letters, oldest first, of one topic or subscription or of all."""

    def replay(self, letter_id: str) -> None:
        """Queue a dead letter again where it died, with its delivery count at zero; raises ``UnknownDeadLetter``."""

    def discard(self, letter_id: str) -> None:
        """Forget a dead letter; raises ``UnknownDeadLetter``."""

    def backlog(self) -> list[Backlog]:
        """One entry per subscription, sorted by topic and name."""

    def counters(self) -> Counters:
        """What went through so far."""

    def close(self) -> None:
        """Wake every waiting consumer with ``BusClosed`` and refuse further use; closing twice is harmless."""
