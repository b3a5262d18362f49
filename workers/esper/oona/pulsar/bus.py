"""The bus on a Pulsar broker: the same port as the bus in memory, for organs that are processes of their own."""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pulsar

from esper.errors import BusError
from esper.oona.bus import (
    _NO_PROPERTIES,
    Backlog,
    BusClosed,
    BusFull,
    Counters,
    DeadLetter,
    Latest,
    Message,
    SubscriptionBusy,
)
from esper.oona.checks import find_topic, require_compacted, require_key, require_name, require_size
from esper.oona.pulsar.admin import Admin
from esper.oona.pulsar.counts import Counts
from esper.oona.pulsar.intake import Intake, Seen
from esper.oona.pulsar.letters import Letters
from esper.oona.pulsar.link import Link
from esper.oona.pulsar.names import ID, OURS, counts_deliveries
from esper.oona.pulsar.outbox import Lane, Parcel
from esper.oona.pulsar.settings import PulsarSettings
from esper.oona.pulsar.tap import Tap
from esper.oona.pulsar.view import View
from esper.oona.queues import Share, SubscriptionQueue
from esper.oona.tracing import carry
from leyline.envelope import Draft
from leyline.topics import TOPICS, SubscriptionType, Topic
from leyline.v1.bus_pb2 import Envelope

_LOG = logging.getLogger(__name__)

_KINDS = {
    SubscriptionType.EXCLUSIVE: pulsar.ConsumerType.Exclusive,
    SubscriptionType.FAILOVER: pulsar.ConsumerType.Failover,
    SubscriptionType.SHARED: pulsar.ConsumerType.Shared,
    SubscriptionType.KEY_SHARED: pulsar.ConsumerType.KeyShared,
}
PREFETCHED = 200
"""Messages taken from the broker ahead of a consumer that keeps order; work is taken one at a time."""
JOIN_SECONDS = 5.0
UNBOUNDED = 1 << 62
"""What a process holds of a subscription is bounded by how it fetches, not by its queue."""


class PulsarBus:
    """A ``Bus`` on a broker. Thread-safe; nothing is connected before it is used.

    ``topics`` is the table of topics, which ``provision`` has made on the broker.
    """

    def __init__(
        self,
        settings: PulsarSettings,
        topics: Mapping[str, Topic] = TOPICS,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._topics = dict(topics)
        self._clock = clock
        self._link = Link(settings)
        self._letters = Letters(self._link, self._topics, settings.operation_timeout_seconds)
        self._views: dict[str, View[Envelope, Latest | None]] = {}
        self._lanes: dict[str, Lane] = {}
        self._intakes: dict[tuple[str, str], Intake] = {}
        self._seen = Seen()
        self._numbers = itertools.count(1)
        self._counts: dict[str, Counter[Any]] = {name: Counter() for name in Counters.__slots__}
        self._lock = threading.RLock()
        self._opening: dict[tuple[str, str], threading.Lock] = {}
        self._closed = False

    @property
    def link(self) -> Link:
        """The connection, with its breaker."""
        return self._link

    def check(self) -> None:
        """Ask the broker for every topic of the table; raises ``BusUnavailable`` or ``BusError`` with what is wrong."""
        for name in self._topics:
            self._link.check(name)

    def publish(
        self,
        topic: str,
        data: bytes | Draft,
        *,
        key: str | None = None,
        properties: Mapping[str, str] = _NO_PROPERTIES,
        message_id: str | None = None,
    ) -> str:
        """See ``Bus.publish``: the message is queued here and sent by a thread of its topic."""
        require_size(topic, data)
        described = self._topic(topic)
        require_key(described, key)
        identity = message_id or uuid.uuid4().hex
        carried = dict(properties)
        if ours := [name for name in carried if name.startswith(OURS)]:
            raise BusError(f"{topic}: property {ours[0]!r}: names that begin with {OURS!r} are the bus's own")
        carry(carried)
        carried[ID] = identity
        try:
            dropped = self._lane(described).put(Parcel(data if isinstance(data, Draft) else bytes(data), key, carried))
        except BusFull:
            self._count("refused", described)
            raise
        self._count("published", described)
        self._count("dropped", described, dropped)
        return identity

    def flush(self, timeout: float) -> int:
        """See ``Bus.flush``."""
        deadline = time.monotonic() + timeout
        with self._lock:
            lanes = list(self._lanes.values())
        return sum(lane.flush(deadline) for lane in lanes)

    def subscribe(
        self,
        topic: str,
        name: str,
        kind: SubscriptionType | str | None = None,
        *,
        key: str | None = None,
        hardware: str | None = None,
    ) -> PulsarSubscription:
        """See ``Bus.subscribe``. A subscription that is not there yet starts with what nobody subscribed to before.

        That needs ``admin_url``; without it a new subscription starts with what is published from now on. One for a
        hardware target starts with all that the broker keeps.
        """
        require_name(name)
        described = self._topic(topic)
        kind, share = described.subscription if kind is None else SubscriptionType(kind), Share(key, hardware)
        with self._lock:
            opening = self._opening.setdefault((topic, name), threading.Lock())
        with opening:  # not the bus's lock: the broker may take its time
            with self._lock:
                intake = self._intakes.get((topic, name))
                if intake is not None:
                    return self._join(intake, kind, share)
            opened = self._open(SubscriptionQueue(described, name, kind, UNBOUNDED, share))
            with self._lock:
                if self._closed:
                    opened.close()
                    raise BusClosed(f"{topic}: the bus is closed")
                self._intakes[topic, name] = opened
                return self._join(opened, kind, share)

    def unsubscribe(self, topic: str, name: str) -> None:
        """See ``Bus.unsubscribe``."""
        require_name(name)
        self._topic(topic)
        with self._lock:
            if (topic, name) in self._intakes:
                raise SubscriptionBusy(f"{topic}/{name}: has a consumer in this process; close it first")
        consumer = self._link.consumer(topic, name, consumer_type=pulsar.ConsumerType.Exclusive)
        self._link.attempt(f"{topic}/{name}", lambda _: consumer.unsubscribe())

    def latest(self, topic: str) -> Mapping[str, Latest]:
        """See ``Bus.latest``; raises ``BusUnavailable`` as well."""
        require_compacted(self._topic(topic))
        with self._lock:
            view = self._views.get(topic)
            if view is None:
                view = self._views[topic] = View(self._link, topic, Envelope, _reader_of(topic))
        found = view.now()
        return MappingProxyType({key: each for key, each in found.items() if each is not None})

    def dead_letters(self, topic: str | None = None, subscription: str | None = None) -> list[DeadLetter]:
        """See ``Bus.dead_letters``; raises ``BusUnavailable`` as well."""
        return self._letters.list(topic, subscription)

    def replay(self, letter_id: str) -> None:
        """See ``Bus.replay``; raises ``BusUnavailable`` as well."""
        self._letters.replay(letter_id)

    def discard(self, letter_id: str) -> None:
        """See ``Bus.discard``; raises ``BusUnavailable`` as well."""
        self._letters.discard(letter_id)

    def backlog(self) -> list[Backlog]:
        """See ``Bus.backlog``; asks the REST interface.

        Raises ``BadInput`` when ``admin_url`` is not set, and ``BusUnavailable`` as well.
        """
        found = []
        dead = Counter((letter.topic, letter.subscription) for letter in self._letters.list())
        with Admin(self.settings) as admin:
            for topic in sorted(self._topics):
                stats = admin.get(
                    admin.topic(topic, "stats"), default={}, getPreciseBacklog=True, getEarliestTimeInBacklog=True
                )
                for name, each in sorted(stats.get("subscriptions", {}).items()):
                    if each.get("durable", True) and not name.startswith("__"):
                        found.append(self._behind(topic, name, each, dead[topic, name]))
        return found

    def counters(self) -> Counters:
        """See ``Bus.counters``."""
        with self._lock:
            return Counters(**{name: MappingProxyType(+count) for name, count in self._counts.items()})

    def close(self) -> None:
        """See ``Bus.close``; waits ``flush_seconds`` for the outbox first, and logs what was left in it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            intakes, lanes = list(self._intakes.values()), dict(self._lanes)
            self._intakes.clear()
        for intake in intakes:
            intake.close()
        deadline = time.monotonic() + self.settings.flush_seconds
        for name, lane in lanes.items():
            lane.flush(deadline)
            if (left := lane.close()) > 0:
                _LOG.error("%s: %d messages were not confirmed by the broker and are lost", name, left)
        # A thread that waits for a broker that is away ends when the link is closed; the others close their producers.
        for lane in lanes.values():
            lane.join(0.5)
        self._link.close()
        for lane in lanes.values():
            lane.join(JOIN_SECONDS)

    def _topic(self, name: str) -> Topic:
        if self._closed:
            raise BusClosed(f"{name}: the bus is closed")
        return find_topic(self._topics, name)

    def _lane(self, topic: Topic) -> Lane:
        with self._lock:
            lane = self._lanes.get(topic.name)
            if lane is None:
                lane = self._lanes[topic.name] = Lane(self._link, topic, self.settings.outbox_messages)
            return lane

    def _join(self, intake: Intake, kind: SubscriptionType, share: Share) -> PulsarSubscription:
        intake.queue.require_joinable(kind, share)
        consumer = next(self._numbers)
        intake.join(consumer)
        return PulsarSubscription(self, intake, consumer)

    def _open(self, queue: SubscriptionQueue) -> Intake:
        topic, name = queue.topic, queue.name
        timeout = self.settings.operation_timeout_seconds
        counted = counts_deliveries(topic)
        options: dict[str, Any] = {
            "consumer_type": _KINDS[queue.kind],
            # Work must not wait behind work in a process that is busy; one is the least this client can prefetch.
            "receiver_queue_size": 1 if counted else PREFETCHED,
            # No time limit for handling: when a process dies the broker notices and offers its messages again.
            "unacked_messages_timeout_ms": None,
            "negative_ack_redelivery_delay_ms": round(self.settings.redelivery_delay_seconds * 1000),
            "initial_position": self._beginning(topic, queue.share),
        }
        return Intake(
            queue,
            Tap(f"{topic.name}/{name}", lambda: self._link.consumer(topic.name, name, **options)),
            self._letters,
            Counts(self._link, topic.name, name, timeout) if counted else None,
            self._seen,
            lambda what: self._count(what, topic),
        )

    def _beginning(self, topic: Topic, share: Share) -> pulsar.InitialPosition:
        """Where a subscription starts that is not there yet; the broker ignores it for one that is."""
        if share.hardware is not None:
            # Others have passed over what is for it; what is too old runs out in the intake.
            return pulsar.InitialPosition.Earliest
        if topic.may_drop or topic.needs_freshness or self.settings.admin_url is None:
            return pulsar.InitialPosition.Latest
        with Admin(self.settings) as admin:
            others = admin.get(admin.topic(topic.name, "subscriptions"), default=[])
        first = all(name.startswith("__") for name in others)
        return pulsar.InitialPosition.Earliest if first else pulsar.InitialPosition.Latest

    def _behind(self, topic: str, name: str, stats: Mapping[str, Any], dead: int) -> Backlog:
        with self._lock:
            intake = self._intakes.get((topic, name))
        # What is here is known one by one; elsewhere the broker counts a bundle as one.
        opened, fetched, waiting = (0, 0, 0) if intake is None else intake.here
        ready = max(0, int(stats.get("msgBacklog", 0)) - fetched) + waiting
        since = float(stats.get("earliestMsgPublishTimeInBacklog", 0) or 0) / 1000
        return Backlog(
            topic=topic,
            subscription=name,
            kind=self._topics[topic].kind,
            ready=ready,
            open=opened,
            dead=dead,
            capacity=None,
            oldest_seconds=max(0.0, self._clock() - since) if ready and since > 0 else 0.0,
        )

    def _count(self, what: str, topic: Topic, number: int = 1) -> None:
        with self._lock:
            self._counts[what][topic.kind] += number

    def _leave(self, intake: Intake, consumer: int) -> None:
        topic, name = intake.queue.topic.name, intake.queue.name
        with self._lock:
            opening = self._opening.setdefault((topic, name), threading.Lock())
        with opening:
            if not intake.leave(consumer):
                return
            with self._lock:
                if self._intakes.get((topic, name)) is intake:
                    del self._intakes[topic, name]
            intake.close()


class PulsarSubscription:
    """A consumer's handle on a ``PulsarBus``; see ``Subscription``."""

    def __init__(self, bus: PulsarBus, intake: Intake, consumer: int) -> None:
        self._bus, self._intake, self._consumer = bus, intake, consumer

    @property
    def topic(self) -> str:
        """The topic subscribed to."""
        return self._intake.queue.topic.name

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self._intake.queue.name

    def receive(self, timeout: float | None = None) -> Message | None:
        """See ``Subscription.receive``; raises ``BusUnavailable`` when the broker has ended the subscription."""
        return self._intake.receive(self._consumer, timeout)

    def ack(self, message: Message) -> bool:
        """See ``Subscription.ack``."""
        return self._intake.ack(message.receipt)

    def nack(self, message: Message, cause: str) -> bool:
        """See ``Subscription.nack``; refused work is offered again after ``redelivery_delay_seconds``."""
        return self._intake.nack(message.receipt, cause)

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._bus._leave(self._intake, self._consumer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _reader_of(topic: str) -> Callable[[Envelope, pulsar.Message], Latest | None]:
    def read(envelope: Envelope, message: pulsar.Message) -> Latest | None:
        if not envelope.HasField("sealed"):
            return None
        properties = message.properties()
        own = MappingProxyType({name: value for name, value in properties.items() if not name.startswith(OURS)})
        return Latest(topic, properties.get(ID, ""), envelope.sealed, message.partition_key(), own)

    return read
