"""One subscription's queue: what is ready, what is open with whom, and in which order it may go out.

No locking here: the bus calls everything under its own lock.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.oona.bus import MAX_DELIVERIES, Backlog, DeadLetter, Message, SubscriptionBusy
from leyline.identity import hardware_of
from leyline.topics import SubscriptionType, Topic


@dataclass(slots=True)
class Entry:
    """A message in one subscription. ``order`` is its place among all messages of the bus."""

    order: int
    message_id: str
    data: bytes
    key: str | None
    properties: Mapping[str, str]
    published_at: float
    deliveries: int = 0


@dataclass(slots=True)
class OpenDelivery:
    """An entry handed to a consumer and not answered yet."""

    entry: Entry
    consumer: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a subscription takes of its topic: messages of one key, of artifacts for one hardware target, or all.

    Both are told by the key, which nobody has signed: it can only keep a message away from a handler.
    """

    key: str | None = None
    hardware: str | None = None

    def takes(self, key: str | None) -> bool:
        """Whether messages of this key are in it; what names no hardware may be for any."""
        if self.key not in (None, key):
            return False
        return self.hardware is None or hardware_of(key) in (None, self.hardware)

    def __str__(self) -> str:
        if self.key is None and self.hardware is None:
            return "all messages"
        of = "" if self.key is None else f" of key {self.key!r}"
        return f"messages{of}" if self.hardware is None else f"messages{of} for {self.hardware}"


@dataclass(slots=True)
class SubscriptionQueue:
    """The messages of one subscription name on one topic."""

    topic: Topic
    name: str
    kind: SubscriptionType
    capacity: int
    share: Share = Share()
    consumers: list[int] = field(default_factory=list)
    _ready: list[tuple[int, Entry]] = field(default_factory=list)
    _parked: dict[str, list[tuple[int, Entry]]] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _open: dict[int, OpenDelivery] = field(default_factory=dict)
    _dead: dict[str, DeadLetter] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Messages the capacity is compared with: dead letters count, because nobody may lose them either."""
        return self.waiting + len(self._open) + len(self._dead)

    @property
    def waiting(self) -> int:
        """Messages not yet delivered."""
        return len(self._ready) + sum(len(heap) for heap in self._parked.values())

    @property
    def full(self) -> bool:
        """Whether one more message would exceed the capacity."""
        return self.size >= self.capacity

    def add(self, entry: Entry) -> int:
        """Queue an entry; returns how many were dropped to make room (always 0 for a kind that never drops)."""
        dropped = 0
        while self.topic.may_drop and self.full:
            dropped += 1
            if not self._ready:
                return dropped  # everything older is being worked on: the new one goes
            heapq.heappop(self._ready)
        heapq.heappush(self._ready, (entry.order, entry))
        return dropped

    def require_joinable(self, kind: SubscriptionType, share: Share) -> None:
        """Raise ``SubscriptionBusy`` unless one more consumer of this kind and share may join."""
        where = f"{self.topic.name}/{self.name}"
        if self.kind is not kind:
            raise SubscriptionBusy(f"{where}: is {self.kind.value}, asked for as {kind.value}")
        if self.share != share:
            raise SubscriptionBusy(f"{where}: takes {self.share}, asked for {share}")
        if kind is SubscriptionType.EXCLUSIVE and self.consumers:
            raise SubscriptionBusy(f"{where}: is exclusive and has its consumer; close that one first")

    def may_serve(self, consumer: int) -> bool:
        """Whether this consumer is one that gets messages now."""
        if self.kind is SubscriptionType.FAILOVER:
            return bool(self.consumers) and self.consumers[0] == consumer
        return consumer in self.consumers

    def deliver(self, consumer: int, receipt: int) -> Entry | None:
        """Take the next entry this consumer may have, or ``None``."""
        if not self.may_serve(consumer):
            return None
        while self._ready:
            order, entry = heapq.heappop(self._ready)
            if self.kind is SubscriptionType.KEY_SHARED:
                key = entry.key or ""
                if key in self._busy:
                    heapq.heappush(self._parked.setdefault(key, []), (order, entry))
                    continue
                self._busy.add(key)
            entry.deliveries += 1
            self._open[receipt] = OpenDelivery(entry, consumer)
            return entry
        return None

    def finish(self, receipt: int) -> Entry | None:
        """Close an open delivery for good; ``None`` when it is not open."""
        delivery = self._open.pop(receipt, None)
        if delivery is None:
            return None
        self._release(delivery.entry)
        return delivery.entry

    def give_back(self, receipt: int) -> tuple[Entry, bool] | None:
        """Queue an open delivery again in its old place, unless it was its last; returns the entry and whether so."""
        delivery = self._open.pop(receipt, None)
        if delivery is None:
            return None
        entry = delivery.entry
        dead = entry.deliveries >= MAX_DELIVERIES
        if not dead:
            heapq.heappush(self._ready, (entry.order, entry))
        self._release(entry)
        return entry, dead

    def open_with(self, consumer: int) -> list[int]:
        """Receipts of what a consumer has not answered, oldest first."""
        return [receipt for receipt, delivery in self._open.items() if delivery.consumer == consumer]

    def entry_of(self, receipt: int) -> Entry | None:
        """What an open delivery handed out; ``None`` when it is not open."""
        delivery = self._open.get(receipt)
        return None if delivery is None else delivery.entry

    @property
    def open(self) -> int:
        """Deliveries that wait for their answer."""
        return len(self._open)

    def dead_letters(self) -> list[DeadLetter]:
        """Dead letters, oldest first."""
        return list(self._dead.values())

    def take_dead(self, letter_id: str) -> DeadLetter | None:
        """Remove a dead letter and return it."""
        return self._dead.pop(letter_id, None)

    def backlog(self, now: float) -> Backlog:
        """How far behind this subscription is; ``now`` in the bus clock's seconds."""
        waiting = [entry.published_at for _, entry in self._ready]
        waiting += [entry.published_at for heap in self._parked.values() for _, entry in heap]
        return Backlog(
            topic=self.topic.name,
            subscription=self.name,
            kind=self.topic.kind,
            ready=len(waiting),
            open=len(self._open),
            dead=len(self._dead),
            capacity=self.capacity,
            oldest_seconds=max(0.0, now - min(waiting)) if waiting else 0.0,
        )

    def message(self, entry: Entry, receipt: int) -> Message:
        """An entry as the consumer gets it that it was handed to."""
        return Message(
            topic=self.topic.name,
            subscription=self.name,
            message_id=entry.message_id,
            data=entry.data,
            key=entry.key,
            properties=entry.properties,
            delivery_count=entry.deliveries,
            receipt=receipt,
        )

    def letter(self, entry: Entry, letter_id: str, cause: str) -> DeadLetter:
        """An entry as a dead letter."""
        return DeadLetter(
            letter_id=letter_id,
            topic=self.topic.name,
            subscription=self.name,
            message_id=entry.message_id,
            data=entry.data,
            key=entry.key,
            properties=entry.properties,
            deliveries=entry.deliveries,
            cause=cause,
            died_at=time.time(),
        )

    def bury(self, entry: Entry, cause: str) -> None:
        """Keep an entry as a dead letter."""
        letter = self.letter(entry, f"{entry.message_id}@{self.name}#{entry.order}", cause)
        self._dead[letter.letter_id] = letter

    def _release(self, entry: Entry) -> None:
        if self.kind is not SubscriptionType.KEY_SHARED:
            return
        key = entry.key or ""
        self._busy.discard(key)
        parked = self._parked.get(key)
        if parked:
            # Only the oldest: the others would be parked again at the next delivery.
            heapq.heappush(self._ready, heapq.heappop(parked))
            if not parked:
                del self._parked[key]
