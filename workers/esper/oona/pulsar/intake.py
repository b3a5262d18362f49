"""One subscription in one process: the broker's consumer, and the handles of this process that share it.

The consumer is asked for a message only when a handle waits for one, by the waiting thread itself. What was taken from
the broker and not answered is in a queue like that of the bus in memory, which gives the same order among the handles.
Refused work goes back to the broker, so that another worker can try; everything else keeps its place here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import pulsar
from google.protobuf.message import DecodeError

from esper.oona.bus import MAX_DELIVERIES, BusClosed, BusUnavailable, Message
from esper.oona.pulsar.counts import Counts
from esper.oona.pulsar.letters import Letters, letter_id
from esper.oona.pulsar.names import FOR, ID, LARGEST_BUNDLE, OURS, bundles
from esper.oona.pulsar.tap import Tap
from esper.oona.queues import Entry, SubscriptionQueue
from leyline.topics import SubscriptionType
from leyline.v1.bus_pb2 import Envelope

_LOG = logging.getLogger(__name__)

SLICE = 0.25
"""Seconds a thread waits for the broker before it looks whether its handle was closed."""
PARKED = 1_000
"""Messages of busy keys that are taken in before the next ones stay on the broker."""
REMEMBERED = 4_096
"""Messages answered last: when the broker did not hear the answer it offers them again."""
_ABANDONED = "its consumer was closed before it answered"
_KILLED = "its consumer ended before it answered"

K = TypeVar("K")
V = TypeVar("V")
Place = tuple[int, int]
Count = Callable[[str], object]


class Recent(OrderedDict[K, V]):
    """The entries noted last."""

    def note(self, key: K, value: V) -> None:
        """Remember one, and forget the oldest beyond the limit."""
        self[key] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)


@dataclass(slots=True)
class Seen:
    """What closed handles of a process had, by topic and subscription: deliveries by message id, and the orders of
    what was answered in bundles that come again because of the rest.
    """

    deliveries: Recent[tuple[str, str, str], int] = field(default_factory=Recent)
    answered: Recent[tuple[str, str, int], None] = field(default_factory=Recent)


@dataclass(slots=True)
class Held:
    """A message of the broker that is in this process: what of it is open, by order, and the orders of what is not.

    The broker is told when all of a bundle was answered.
    """

    identity: pulsar.MessageId
    entries: dict[int, Entry]
    answered: list[int]


class Intake:
    """See the module.

    Args:
        tap: the broker's consumer.
        seen: of the handles of this process that are closed; shared by a bus's intakes.
        counts: deliveries on the broker, for topics that have them.
        count: told ``delivered``, ``redelivered``, ``acknowledged``, ``dropped``, ``dead``.
    """

    def __init__(
        self,
        queue: SubscriptionQueue,
        tap: Tap,
        letters: Letters,
        counts: Counts | None,
        seen: Seen,
        count: Count,
    ) -> None:
        self.queue = queue
        self._tap, self._letters, self._counts = tap, letters, counts
        self._seen, self._count = seen, count
        self._by_broker = counts is not None and queue.kind is SubscriptionType.SHARED
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: dict[Place, Held] = {}
        self._places: dict[int, Place] = {}
        self._recent = Recent[Place, None]()
        self._doomed: dict[str, str] = {}
        self._receipts = 0
        self._fetching = False
        self._closed = False

    @property
    def here(self) -> tuple[int, int, int]:
        """Deliveries that were not answered, what is here as the broker counts it, and messages that wait here."""
        with self._lock:
            return self.queue.open, len(self._held), self.queue.waiting

    def join(self, consumer: int) -> None:
        """A new handle."""
        with self._lock:
            self.queue.consumers.append(consumer)

    def receive(self, consumer: int, timeout: float | None) -> Message | None:
        """See ``Subscription.receive``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        asked = False
        with self._lock:
            while True:
                if self._closed or consumer not in self.queue.consumers:
                    raise BusClosed(f"{self._name}: closed")
                message = self._deliver(consumer)
                if message is not None:
                    return message
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if left == 0.0 and asked:
                    return None
                if self._fetching or not self.queue.may_serve(consumer) or self.queue.waiting >= PARKED:
                    asked = True
                    self._changed.wait(left)
                    continue
                asked = True
                self._fetching = True
                try:
                    with self._unlocked():
                        fetched = self._tap.fetch(SLICE if left is None else min(left, SLICE))
                finally:
                    self._fetching = False
                    self._changed.notify_all()
                if fetched is not None:
                    self._admit(fetched)

    def ack(self, receipt: int) -> bool:
        """See ``Subscription.ack``."""
        with self._lock:
            entry = self.queue.finish(receipt)
            if entry is None:
                return False
            self._done(entry)
            self._count("acknowledged")
            self._changed.notify_all()
            return True

    def nack(self, receipt: int, cause: str) -> bool:
        """See ``Subscription.nack``."""
        with self._lock:
            entry = self.queue.entry_of(receipt)
            if entry is None:
                return False
            if entry.deliveries >= MAX_DELIVERIES:
                self.queue.finish(receipt)
                self._doomed[entry.message_id] = cause
                self._bury(entry)
            elif self._by_broker:
                self.queue.finish(receipt)
                self._return(entry)
            else:
                self.queue.give_back(receipt)
            self._changed.notify_all()
            return True

    def leave(self, consumer: int) -> bool:
        """A handle closes and gives back what it had open; returns whether it was the last one."""
        with self._lock:
            if consumer not in self.queue.consumers:
                return False
            mine = self.queue.open_with(consumer)
        for receipt in mine:
            self.nack(receipt, _ABANDONED)
        with self._lock:
            self.queue.consumers.remove(consumer)
            self._changed.notify_all()
            return not self.queue.consumers

    def close(self) -> None:
        """End the consumer: what it has not answered goes to the next one, and its waiters get ``BusClosed``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for held in self._held.values():
                for entry in held.entries.values():
                    if entry.deliveries:
                        self._seen.deliveries.note((*self._whose, entry.message_id), entry.deliveries)
                for order in held.answered:
                    self._seen.answered.note((*self._whose, order), None)
            self._changed.notify_all()
        self._tap.close()

    @property
    def _whose(self) -> tuple[str, str]:
        return self.queue.topic.name, self.queue.name

    @property
    def _name(self) -> str:
        return self._tap.name

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _admit(self, message: pulsar.Message) -> None:
        """Queue what the broker sent, unless it is here already, was answered before, or is not for us."""
        identity = message.message_id()
        place = (identity.ledger_id(), identity.entry_id())
        if place in self._held:
            return  # the connection was lost while it is worked on: it is open, and stays so
        properties = message.properties()
        key = message.partition_key() or None
        target = properties.get(FOR, self.queue.name)
        ours = target == self.queue.name and self.queue.share.takes(key)
        if place in self._recent or not ours or self._ran_out(message):
            self._tap.acknowledge(identity)
            return
        try:
            envelope = Envelope.FromString(message.data())
            problem = self._problem(envelope)
        except DecodeError as error:
            envelope, problem = Envelope(), f"is not a leyline.v1.Envelope: {error}"
        if problem:
            entry = self._entry(place, 0, message.data(), key, properties)
            self._hold(place, Held(identity, {entry.order: entry}, []))
            self._doomed[entry.message_id] = problem
            self._bury(entry)
            return
        parts = [(each.sealed, each.properties) for each in envelope.bundle] or [(envelope.sealed, properties)]
        entries = [self._entry(place, index, data, key, names) for index, (data, names) in enumerate(parts)]
        fresh = {each.order: each for each in entries if (*self._whose, each.order) not in self._seen.answered}
        if not fresh:
            self._recent.note(place, None)
            self._tap.acknowledge(identity)
            return
        self._hold(place, Held(identity, fresh, [each.order for each in entries if each.order not in fresh]))
        for entry in fresh.values():
            self.queue.add(entry)

    def _ran_out(self, message: pulsar.Message) -> bool:
        """Whether the broker should have given up on it: it looks at what has run out now and then only."""
        expiry = self.queue.topic.expiry
        return bool(expiry) and time.time() - message.publish_timestamp() / 1000 > expiry

    def _problem(self, envelope: Envelope) -> str:
        if not envelope.bundle:
            return "" if envelope.HasField("sealed") else "holds no envelope"
        if not bundles(self.queue.topic) or envelope.HasField("sealed"):
            return "holds a bundle where none may be"
        if len(envelope.bundle) > LARGEST_BUNDLE:
            return f"holds a bundle of {len(envelope.bundle)} messages; at most {LARGEST_BUNDLE}"
        return ""

    def _entry(self, place: Place, index: int, data: bytes, key: str | None, properties: Mapping[str, str]) -> Entry:
        own = MappingProxyType({name: value for name, value in properties.items() if not name.startswith(OURS)})
        message_id = properties.get(ID, ":".join(map(str, (*place, index) if index else place)))
        deliveries = self._seen.deliveries.pop((*self._whose, message_id), 0)
        order = (place[0] << 80) + (place[1] << 16) + index
        return Entry(order, message_id, data, key, own, time.monotonic(), deliveries)

    def _hold(self, place: Place, held: Held) -> None:
        self._held[place] = held
        self._places.update(dict.fromkeys(held.entries, place))

    def _deliver(self, consumer: int) -> Message | None:
        """The next message this handle may have; counted where deliveries are counted, buried when it had them all."""
        while True:
            self._receipts += 1
            receipt = self._receipts
            entry = self.queue.deliver(consumer, receipt)
            if entry is None:
                return None
            if not self._claimed(entry):
                self.queue.finish(receipt)
                self._return(entry)
                return None
            if entry.deliveries > MAX_DELIVERIES:
                entry.deliveries = MAX_DELIVERIES
                self.queue.finish(receipt)
                self._bury(entry)
                continue
            self._count("delivered" if entry.deliveries == 1 else "redelivered")
            return self.queue.message(entry, receipt)

    def _claimed(self, entry: Entry) -> bool:
        """Count this delivery on the broker; whether it may be made."""
        if self._counts is None:
            return True
        try:
            with self._unlocked():
                entry.deliveries = max(entry.deliveries, self._counts.before(entry.message_id) + 1)
                if entry.deliveries <= MAX_DELIVERIES:
                    self._counts.claim(entry.message_id, entry.deliveries)
        except BusUnavailable as error:
            _LOG.warning("%s: not handed out: %s", self._name, error)
            return False
        return True

    def _bury(self, entry: Entry) -> None:
        """Make it a dead letter; when the broker can't take that now, it comes again and is buried then."""
        cause = self._doomed.get(entry.message_id, f"{_KILLED} (delivery {entry.deliveries})")
        if self.queue.topic.may_drop:
            self._done(entry)
            self._count("dropped")
            return
        letter = self.queue.letter(entry, letter_id(entry.message_id, self.queue.name), cause)
        try:
            with self._unlocked():
                self._letters.bury(letter)
        except BusUnavailable as error:
            _LOG.warning("%s: message %s could not be buried: %s", self._name, entry.message_id, error)
            self._return(entry)
            return
        self._doomed.pop(entry.message_id, None)
        self._done(entry, dead=True)
        self._count("dead")

    def _done(self, entry: Entry, dead: bool = False) -> None:
        """Answered for good. What is dead may be replayed, and must then be counted anew."""
        place = self._places.pop(entry.order, None)
        held = None if place is None else self._held.get(place)
        if place is None or held is None:
            return
        del held.entries[entry.order]
        held.answered.append(entry.order)
        if not held.entries:
            del self._held[place]
            self._recent.note(place, None)
            self._tap.acknowledge(held.identity)
        if self._counts is not None:
            try:
                with self._unlocked():
                    self._counts.forget(entry.message_id, wait=dead)
            except BusUnavailable as error:
                _LOG.info("%s: the count of %s stays: %s", self._name, entry.message_id, error)

    def _return(self, entry: Entry) -> None:
        """Give it back: to the broker where others can take it, else to its place here."""
        if not self._by_broker:
            self.queue.add(entry)
            return
        place = self._places.pop(entry.order, None)
        held = None if place is None else self._held.pop(place, None)
        if held is not None:
            self._tap.refuse(held.identity)
