"""The way out: a bounded queue for each topic and the thread that empties it into the broker.

``put`` never waits and never touches the network. What the broker has not confirmed stays in the queue; when the
producer fails, everything unconfirmed is sent again in its order, so a message may arrive twice but none is lost.

When messages come faster than they are sent, those of one key that wait already are sealed together and sent as one
bundle, on topics that may have them. Nothing ever waits for a bundle to fill.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import pulsar
from pulsar.exceptions import PulsarException

from esper.errors import BadInput, BusError
from esper.oona.bus import BusClosed, BusFull
from esper.oona.pulsar.link import Link, describe
from esper.oona.pulsar.names import LARGEST_BUNDLE, bundles
from leyline.envelope import Draft, seal_together
from leyline.keys import Signer
from leyline.topics import Topic
from leyline.v1.bus_pb2 import Bundled, Envelope

_LOG = logging.getLogger(__name__)

WINDOW = 256
"""Messages sent and not confirmed. Telemetry can be dropped until it is sent, so this is a small part of the queue."""
SMALLEST_BUNDLE = 16
"""Fewer messages are sent one by one: a broker counts what it stores, so bundles blur its backlog."""
BUNDLE_BYTES = 128 * 1024
"""What a bundle may hold; a single message may be larger."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts to open the producer."""
LOST_SECONDS = 3.0
"""How long a lost connection may take to come back by itself. The client waits ever longer, up to a minute, between its
attempts; then a new producer is opened, and the messages are sent again."""


@dataclass(slots=True)
class Parcel:
    """A message on its way to the broker; a draft is sealed when it is sent."""

    data: bytes | Draft
    key: str | None
    properties: Mapping[str, str]

    @property
    def signer(self) -> Signer | None:
        """Who seals it; ``None`` when that is done."""
        return self.data.signer if isinstance(self.data, Draft) else None

    @property
    def size(self) -> int:
        """Bytes, without what sealing adds."""
        data = len(self.data.fields if isinstance(self.data, Draft) else self.data)
        return data + sum(len(name) + len(value) for name, value in self.properties.items())


class Lane:
    """One topic's queue and thread; the thread starts with the first message."""

    def __init__(self, link: Link, topic: Topic, capacity: int) -> None:
        self._link, self._topic, self._capacity = link, topic, capacity
        self._window = max(1, min(WINDOW, capacity // 2))
        self._changed = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._sent: dict[int, list[Parcel]] = {}
        self._on_way = 0
        self._number = 0
        self._thread: threading.Thread | None = None
        self._closing = False
        self._moved = time.monotonic()
        self._broken = ""
        self._problem = "not connected yet"
        self._troubled = False

    def put(self, parcel: Parcel) -> int:
        """Queue it; returns how many were dropped for it. Raises ``BusFull`` on a topic that may not drop."""
        with self._changed:
            if self._closing:
                raise BusClosed(f"{self._topic.name}: the bus is closed")
            dropped = 0
            if self._left >= self._capacity:
                if not self._topic.may_drop:
                    raise BusFull(
                        f"{self._topic.name}: {self._capacity} {self._topic.kind.value} messages wait for the broker "
                        f"({self._problem or 'it is slow'}); keep this one and publish it again later"
                    )
                if not self._waiting:
                    return 1  # all are on the wire: the new one goes
                self._waiting.popleft()
                dropped = 1
            self._waiting.append(parcel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"outbox {self._topic.name}", daemon=True)
                self._thread.start()
            if self._on_way < self._window:
                self._changed.notify_all()  # else the thread waits for a confirmation
            return dropped

    def flush(self, deadline: float) -> int:
        """Wait until ``deadline`` (monotonic seconds) for the queue to be empty; returns what is left."""
        with self._changed:
            while self._left:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._left

    def close(self) -> int:
        """Take no more and end the thread soon; returns what was not confirmed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            return self._left

    def join(self, timeout: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    @property
    def _left(self) -> int:
        return len(self._waiting) + self._on_way

    def _run(self) -> None:
        producer: pulsar.Producer | None = None
        wait = FIRST_WAIT
        while True:
            batch = self._next(producer is not None)
            if batch is None:
                break
            try:
                if producer is None:
                    producer = self._link.producer(self._topic.name, Envelope, pending=2 * self._window)
                    self._opened()
                    wait = FIRST_WAIT
                for number, parcels in batch:
                    self._send(producer, number, parcels)
                if not batch and self._stalled() and not producer.is_connected():
                    self._failed("the connection was lost")
            except BusClosed:
                break
            except (BusError, BadInput, PulsarException) as error:
                self._failed(describe(error))
            if self._broken:
                _discard(producer)
                producer = None
                self._take_back()
                with self._changed:
                    if not self._closing:
                        self._changed.wait_for(lambda: self._closing, wait)
                wait = min(2 * wait, LONGEST_WAIT)
        _discard(producer)

    def _next(self, connected: bool) -> list[tuple[int, list[Parcel]]] | None:
        """Wait for something to send and room in the window; empty when there is something to look after.

        ``None`` when closing.
        """
        with self._changed:
            while True:
                if self._closing:
                    return None
                if self._broken or (self._waiting and not connected) or self._late():
                    return []
                batch = []
                while self._waiting and (count := self._bundled()) <= self._window - self._on_way:
                    self._number += 1
                    parcels = [self._waiting.popleft() for _ in range(count)]
                    self._sent[self._number] = parcels
                    self._on_way += count
                    batch.append((self._number, parcels))
                if batch:
                    self._moved = time.monotonic()
                    return batch
                self._changed.wait(LOST_SECONDS / 3 if self._sent else None)

    def _bundled(self) -> int:
        """How many of those that wait are sent next as one; holds the lock."""
        most = min(LARGEST_BUNDLE, self._window, len(self._waiting)) if bundles(self._topic) else 1
        if most < SMALLEST_BUNDLE:
            return 1
        first, size = self._waiting[0], 0
        for count, parcel in enumerate(islice(self._waiting, most)):
            size += parcel.size
            if size > BUNDLE_BYTES or parcel.key != first.key or parcel.signer is not first.signer:
                return count if count >= SMALLEST_BUNDLE else 1
        return most

    def _late(self) -> bool:
        """Whether confirmations should have come long ago; holds the lock."""
        return bool(self._sent) and time.monotonic() - self._moved > LOST_SECONDS

    def _stalled(self) -> bool:
        with self._changed:
            late = self._late()
            if late:
                # Looked at now; when the broker is only slow this is not looked at in a loop.
                self._moved = time.monotonic()
            return late

    def _send(self, producer: pulsar.Producer, number: int, parcels: list[Parcel]) -> None:
        # Outside the lock: sealing takes a while, and the client may call back from its own thread, or from this one.
        sealed = _seal(parcels)
        if len(parcels) == 1:
            envelope, properties = Envelope(sealed=sealed[0]), dict(parcels[0].properties)
        else:
            each = zip(sealed, parcels, strict=True)
            bundle = [Bundled(sealed=data, properties=parcel.properties) for data, parcel in each]
            envelope, properties = Envelope(bundle=bundle), None
        producer.send_async(
            envelope,
            lambda result, _id, number=number: self._answered(number, result),
            properties=properties,
            partition_key=parcels[0].key,
        )

    def _answered(self, number: int, result: pulsar.Result) -> None:
        with self._changed:
            if number not in self._sent:
                return  # of a producer that was given up
            self._moved = time.monotonic()
            if result == pulsar.Result.Ok:
                self._on_way -= len(self._sent.pop(number))
            else:
                self._broken = self._broken or str(result).removeprefix("Result.")
            self._changed.notify_all()

    def _opened(self) -> None:
        with self._changed:
            _LOG.info("%s: connected to %s", self._topic.name, self._link.settings.service_url)
            self._problem = ""
            self._troubled = False

    def _failed(self, problem: str) -> None:
        with self._changed:
            self._broken = problem

    def _take_back(self) -> None:
        """Queue everything unconfirmed again, in its order, before what came later."""
        with self._changed:
            # Once for each outage: what follows is the same with other words.
            level = logging.DEBUG if self._troubled else logging.WARNING
            _LOG.log(level, "%s: not sent: %s; trying again", self._topic.name, self._broken)
            self._troubled = True
            self._problem, self._broken = self._broken, ""
            self._waiting.extendleft(reversed([parcel for parcels in self._sent.values() for parcel in parcels]))
            self._sent.clear()
            self._on_way = 0


def _seal(parcels: list[Parcel]) -> list[bytes]:
    """The envelopes; all were drafts of one signer, or none. What is sent again is the same envelope."""
    drafts = [parcel.data for parcel in parcels if isinstance(parcel.data, Draft)]
    sealed = seal_together(drafts) or [parcel.data for parcel in parcels if isinstance(parcel.data, bytes)]
    for parcel, data in zip(parcels, sealed, strict=True):
        parcel.data = data
    return sealed


def _discard(producer: pulsar.Producer | None) -> None:
    if producer is None:
        return
    try:
        producer.close()
    except PulsarException as error:
        _LOG.info("closing a producer: %s", describe(error))
