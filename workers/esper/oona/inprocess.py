"""The bus inside one process: queues in memory, one lock, consumers woken by a condition.

Nothing is stored: what is unanswered when the process ends is asked for again from the library's state, which is what
a run does at its start anyway.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Self

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
    UnknownDeadLetter,
)
from esper.oona.checks import find_topic, require_compacted, require_key, require_name, require_size
from esper.oona.queues import Entry, Share, SubscriptionQueue
from leyline.envelope import Draft
from leyline.identity import hardware_of
from leyline.topics import TOPICS, SubscriptionType, Topic, TopicKind

DEFAULT_CAPACITY: Mapping[TopicKind, int] = MappingProxyType(
    {
        TopicKind.COMMAND: 1_024,
        TopicKind.WORK: 65_536,
        TopicKind.REPORT: 65_536,
        TopicKind.TELEMETRY: 4_096,
    }
)
"""Messages a subscription may hold, by kind of topic."""


class InProcessBus:
    """A ``Bus`` in memory. Thread-safe.

    ``topics`` is the table of topics (default: the contracts'); ``capacity`` overrides
    ``DEFAULT_CAPACITY``; ``clock`` gives monotonic seconds for the age of the backlog.
    """

    def __init__(
        self,
        topics: Mapping[str, Topic] = TOPICS,
        *,
        capacity: Mapping[TopicKind, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics = dict(topics)
        self._capacity = {**DEFAULT_CAPACITY, **(capacity or {})}
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queues: dict[tuple[str, str], SubscriptionQueue] = {}
        self._unclaimed: dict[str, list[Entry]] = {}
        self._latest: dict[str, dict[str, Latest]] = {name: {} for name, each in topics.items() if each.compacted}
        self._numbers = itertools.count(1)
        self._counts: dict[str, Counter[TopicKind]] = {name: Counter() for name in Counters.__slots__}
        self._closed = False

    def publish(
        self,
        topic: str,
        data: bytes | Draft,
        *,
        key: str | None = None,
        properties: Mapping[str, str] = _NO_PROPERTIES,
        message_id: str | None = None,
    ) -> str:
        """See ``Bus.publish``."""
        require_size(topic, data)
        identity = message_id or uuid.uuid4().hex
        carried = MappingProxyType(dict(properties))
        with self._lock:
            described = self._topic(topic)
            kind = described.kind
            require_key(described, key)
            queues = [queue for queue in self._queues.values() if queue.topic.name == topic]
            self._refuse_when_full(described, queues, key)
            self._counts["published"][kind] += 1
            now, payload = self._clock(), data.seal() if isinstance(data, Draft) else bytes(data)
            if described.compacted and key is not None:
                self._latest[topic][key] = Latest(topic, identity, payload, key, carried)
            for queue in queues:
                if not queue.share.takes(key):
                    continue
                # One entry per subscription: each counts its own deliveries.
                entry = Entry(next(self._numbers), identity, payload, key, carried, now)
                self._counts["dropped"][kind] += queue.add(entry)
            if _unclaimed(described, queues, key):
                if described.may_drop:
                    self._counts["dropped"][kind] += 1
                else:
                    entry = Entry(next(self._numbers), identity, payload, key, carried, now)
                    self._unclaimed.setdefault(topic, []).append(entry)
            self._changed.notify_all()
        return identity

    def flush(self, timeout: float) -> int:
        """See ``Bus.flush``; nothing waits outside the queues."""
        return 0

    def subscribe(
        self,
        topic: str,
        name: str,
        kind: SubscriptionType | str | None = None,
        *,
        key: str | None = None,
        hardware: str | None = None,
    ) -> InProcessSubscription:
        """See ``Bus.subscribe``."""
        require_name(name)
        with self._lock:
            described = self._topic(topic)
            kind = described.subscription if kind is None else SubscriptionType(kind)
            queue = self._queues.get((topic, name))
            share = Share(key, hardware)
            if queue is None:
                queue = SubscriptionQueue(described, name, kind, self._capacity[described.kind], share)
                self._begin(queue)
                self._queues[topic, name] = queue
            queue.require_joinable(kind, share)
            consumer = next(self._numbers)
            queue.consumers.append(consumer)
            return InProcessSubscription(self, queue, consumer)

    def unsubscribe(self, topic: str, name: str) -> None:
        """See ``Bus.unsubscribe``."""
        with self._lock:
            self._topic(topic)
            queue = self._queues.get((topic, name))
            if queue is not None and queue.consumers:
                raise SubscriptionBusy(f"{topic}/{name}: has {len(queue.consumers)} consumers; close them first")
            self._queues.pop((topic, name), None)

    def latest(self, topic: str) -> Mapping[str, Latest]:
        """See ``Bus.latest``."""
        with self._lock:
            require_compacted(self._topic(topic))
            return MappingProxyType(dict(self._latest[topic]))

    def dead_letters(self, topic: str | None = None, subscription: str | None = None) -> list[DeadLetter]:
        """See ``Bus.dead_letters``."""
        with self._lock:
            return [
                letter
                for queue in self._queues.values()
                if topic in (None, queue.topic.name) and subscription in (None, queue.name)
                for letter in queue.dead_letters()
            ]

    def replay(self, letter_id: str) -> None:
        """See ``Bus.replay``."""
        with self._lock:
            queue, letter = self._take_dead(letter_id)
            entry = Entry(
                next(self._numbers), letter.message_id, letter.data, letter.key, letter.properties, self._clock()
            )
            queue.add(entry)
            self._changed.notify_all()

    def discard(self, letter_id: str) -> None:
        """See ``Bus.discard``."""
        with self._lock:
            self._take_dead(letter_id)

    def backlog(self) -> list[Backlog]:
        """See ``Bus.backlog``."""
        with self._lock:
            now = self._clock()
            return [self._queues[key].backlog(now) for key in sorted(self._queues)]

    def counters(self) -> Counters:
        """See ``Bus.counters``."""
        with self._lock:
            return Counters(**{name: MappingProxyType(dict(count)) for name, count in self._counts.items()})

    def close(self) -> None:
        """See ``Bus.close``."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()

    def _topic(self, name: str) -> Topic:
        if self._closed:
            raise BusClosed(f"{name}: the bus is closed")
        return find_topic(self._topics, name)

    def _begin(self, queue: SubscriptionQueue) -> None:
        """Give a new subscription what was kept for it; what is for hardware without pools stays for those to come."""
        topic, share = queue.topic, queue.share
        if share.hardware is None and any(name == topic.name for name, _ in self._queues):
            return  # not the first: it begins with what comes next
        left = []
        for entry in self._unclaimed.pop(topic.name, ()):
            if share.takes(entry.key):
                queue.add(replace(entry))
            if topic.per_hardware and hardware_of(entry.key) not in (None, share.hardware):
                left.append(entry)
        if left:
            self._unclaimed[topic.name] = left

    def _refuse_when_full(self, topic: Topic, queues: list[SubscriptionQueue], key: str | None) -> None:
        if topic.may_drop:
            return
        capacity = self._capacity[topic.kind]
        full = next((queue.name for queue in queues if queue.full and queue.share.takes(key)), None)
        if full is None and _unclaimed(topic, queues, key) and len(self._unclaimed.get(topic.name, ())) >= capacity:
            full = "(no subscription yet)"
        if full is not None:
            self._counts["refused"][topic.kind] += 1
            raise BusFull(
                f"{topic.name}/{full}: {capacity} {topic.kind.value} messages are waiting; "
                "keep this one and publish it again later"
            )

    def _take_dead(self, letter_id: str) -> tuple[SubscriptionQueue, DeadLetter]:
        for queue in self._queues.values():
            letter = queue.take_dead(letter_id)
            if letter is not None:
                return queue, letter
        raise UnknownDeadLetter(f"dead letter {letter_id!r}: there is none with this id; list them to see what is left")

    def _receive(self, queue: SubscriptionQueue, consumer: int, timeout: float | None) -> Message | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while True:
                if self._closed or consumer not in queue.consumers:
                    raise BusClosed(f"{queue.topic.name}/{queue.name}: closed")
                receipt = next(self._numbers)
                entry = queue.deliver(consumer, receipt)
                if entry is not None:
                    self._counts["delivered" if entry.deliveries == 1 else "redelivered"][queue.topic.kind] += 1
                    return queue.message(entry, receipt)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)

    def _ack(self, queue: SubscriptionQueue, receipt: int) -> bool:
        with self._lock:
            done = queue.finish(receipt) is not None
            if done:
                self._counts["acknowledged"][queue.topic.kind] += 1
                self._changed.notify_all()
            return done

    def _nack(self, queue: SubscriptionQueue, receipt: int, cause: str) -> bool:
        with self._lock:
            outcome = queue.give_back(receipt)
            if outcome is None:
                return False
            entry, dead = outcome
            if dead and queue.topic.may_drop:
                self._counts["dropped"][queue.topic.kind] += 1
            elif dead:
                queue.bury(entry, cause)
                self._counts["dead"][queue.topic.kind] += 1
            self._changed.notify_all()
            return True

    def _leave(self, queue: SubscriptionQueue, consumer: int) -> None:
        with self._lock:
            if consumer not in queue.consumers:
                return
            queue.consumers.remove(consumer)
            for receipt in queue.open_with(consumer):
                self._nack(queue, receipt, "its consumer was closed before it answered")
            self._changed.notify_all()


def _unclaimed(topic: Topic, queues: list[SubscriptionQueue], key: str | None) -> bool:
    """Whether a message of this key is kept for a subscription that is not there yet."""
    if not queues:
        return True
    hardware = hardware_of(key) if topic.per_hardware and not topic.may_drop else None
    return hardware is not None and all(queue.share.hardware != hardware for queue in queues)


class InProcessSubscription:
    """A consumer's handle on an ``InProcessBus``; see ``Subscription``."""

    def __init__(self, bus: InProcessBus, queue: SubscriptionQueue, consumer: int) -> None:
        self._bus, self._queue, self._consumer = bus, queue, consumer

    @property
    def topic(self) -> str:
        """The topic subscribed to."""
        return self._queue.topic.name

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self._queue.name

    def receive(self, timeout: float | None = None) -> Message | None:
        """See ``Subscription.receive``."""
        return self._bus._receive(self._queue, self._consumer, timeout)

    def ack(self, message: Message) -> bool:
        """See ``Subscription.ack``."""
        return self._bus._ack(self._queue, message.receipt)

    def nack(self, message: Message, cause: str) -> bool:
        """See ``Subscription.nack``."""
        return self._bus._nack(self._queue, message.receipt, cause)

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._bus._leave(self._queue, self._consumer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
