"""The way out: a bounded queue for each topic and the thread that empties it into the broker.

``put`` never waits and never touches the network. What the broker has not confirmed stays in the queue; when the
producer fails, everything unconfirmed is sent again in its order, so a message may arrive twice but none is lost.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import pulsar
from pulsar.exceptions import PulsarException

from esper.errors import BadInput, BusError
from esper.oona.bus import BusClosed, BusFull
from esper.oona.pulsar.link import Link, describe
from leyline.topics import Topic
from leyline.v1.bus_pb2 import Envelope

_LOG = logging.getLogger(__name__)

WINDOW = 256
"""Messages sent and not confirmed. Telemetry can be dropped until it is sent, so this is a small part of the queue."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between attempts to open the producer."""
LOST_SECONDS = 3.0
"""How long a lost connection may take to come back by itself. The client waits ever longer, up to a minute, between its
attempts; then a new producer is opened, and the messages are sent again."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message on its way to the broker."""

    data: bytes
    key: str | None
    properties: Mapping[str, str]


class Lane:
    """One topic's queue and thread; the thread starts with the first message."""

    def __init__(self, link: Link, topic: Topic, capacity: int) -> None:
        self._link, self._topic, self._capacity = link, topic, capacity
        self._window = max(1, min(WINDOW, capacity // 2))
        self._changed = threading.Condition()
        self._waiting: deque[Parcel] = deque()
        self._sent: dict[int, Parcel] = {}
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
            if len(self._waiting) + len(self._sent) >= self._capacity:
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
            self._changed.notify_all()
            return dropped

    def flush(self, deadline: float) -> int:
        """Wait until ``deadline`` (monotonic seconds) for the queue to be empty; returns what is left."""
        with self._changed:
            while self._waiting or self._sent:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return len(self._waiting) + len(self._sent)

    def close(self) -> int:
        """Take no more and end the thread soon; returns what was not confirmed."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            return len(self._waiting) + len(self._sent)

    def join(self, timeout: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

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
                for number, parcel in batch:
                    self._send(producer, number, parcel)
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

    def _next(self, connected: bool) -> list[tuple[int, Parcel]] | None:
        """Wait for something to send and room in the window; empty when there is something to look after.

        ``None`` when closing.
        """
        with self._changed:
            while True:
                if self._closing:
                    return None
                if self._broken or (self._waiting and not connected) or self._late():
                    return []
                room = self._window - len(self._sent)
                if self._waiting and room > 0:
                    batch = []
                    for _ in range(min(room, len(self._waiting))):
                        self._number += 1
                        parcel = self._waiting.popleft()
                        self._sent[self._number] = parcel
                        batch.append((self._number, parcel))
                    self._moved = time.monotonic()
                    return batch
                self._changed.wait(LOST_SECONDS / 3 if self._sent else None)

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

    def _send(self, producer: pulsar.Producer, number: int, parcel: Parcel) -> None:
        # Outside the lock: the client may call back from its own thread, or at once from this one.
        producer.send_async(
            Envelope(sealed=parcel.data),
            lambda result, _id, number=number: self._answered(number, result),
            properties=dict(parcel.properties),
            partition_key=parcel.key,
        )

    def _answered(self, number: int, result: pulsar.Result) -> None:
        with self._changed:
            if number not in self._sent:
                return  # of a producer that was given up
            self._moved = time.monotonic()
            if result == pulsar.Result.Ok:
                del self._sent[number]
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
            self._waiting.extendleft(reversed(self._sent.values()))
            self._sent.clear()


def _discard(producer: pulsar.Producer | None) -> None:
    if producer is None:
        return
    try:
        producer.close()
    except PulsarException as error:
        _LOG.info("closing a producer: %s", describe(error))
