"""What a compacted topic holds now: the last message of each key, followed as it changes.

A message that is empty on the wire takes its key away, as a compaction does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import pulsar
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Payload
from pulsar.exceptions import PulsarException

from esper.oona.bus import BusUnavailable
from esper.oona.pulsar.link import Link, describe

_LOG = logging.getLogger(__name__)

P = TypeVar("P", bound=Payload)
V = TypeVar("V")
_READ_MILLISECONDS = 5_000


class View(Generic[P, V]):
    """A topic's keys with what ``read`` makes of their last messages, oldest first. Thread-safe."""

    def __init__(self, link: Link, topic: str, payload: type[P], read: Callable[[P, pulsar.Message], V]) -> None:
        self._link, self._topic, self._payload, self._read = link, topic, payload, read
        self._lock = threading.Lock()
        self._reader: pulsar.Reader | None = None
        self._held: dict[str, V] = {}

    def now(self) -> dict[str, V]:
        """Everything, as of now; raises ``BusUnavailable`` when the broker can't be asked."""
        with self._lock:
            self._follow()
            return dict(self._held)

    def get(self, key: str) -> V | None:
        """What one key holds now; raises as ``now``."""
        with self._lock:
            self._follow()
            return self._held.get(key)

    def _follow(self) -> None:
        try:
            if self._reader is None:
                self._held.clear()
                self._reader = self._link.reader(self._topic)
            while self._reader.has_message_available():
                self._take(self._reader.read_next(timeout_millis=_READ_MILLISECONDS))
        except PulsarException as error:
            _close(self._reader)
            self._reader = None  # begun anew next time: what it had read may be half of a change
            raise BusUnavailable(
                f"broker {self._link.settings.service_url}: {self._topic} can't be read: {describe(error)}"
            ) from error

    def _take(self, message: pulsar.Message) -> None:
        key, data = message.partition_key(), message.data()
        # Taken out first, so that the order is that of the last change.
        self._held.pop(key, None)
        if not data:
            return
        try:
            payload = self._payload.FromString(data)
        except DecodeError:
            return  # the schema keeps such messages out; one that is there anyway says nothing
        self._held[key] = self._read(payload, message)


class Writer(Generic[P]):
    """Writes to an internal topic. Thread-safe."""

    def __init__(self, link: Link, topic: str, payload: type[P], timeout: float) -> None:
        self._link, self._topic, self._payload, self._timeout = link, topic, payload, timeout
        self._lock = threading.Lock()
        self._producer: pulsar.Producer | None = None

    def put(self, key: str | None, payload: P, properties: dict[str, str] | None = None, *, wait: bool = True) -> None:
        """Store it, and wait until it is; raises ``BusUnavailable``, and then it may or may not be stored."""
        with self._lock:
            try:
                if self._producer is None:
                    self._producer = self._link.producer(self._topic, self._payload, send_timeout=self._timeout)
                if wait:
                    self._producer.send(payload, properties=properties, partition_key=key)
                else:
                    self._producer.send_async(payload, self._answered, properties=properties, partition_key=key)
            except PulsarException as error:
                _close(self._producer)
                self._producer = None
                raise BusUnavailable(
                    f"broker {self._link.settings.service_url}: {self._topic} can't be written: {describe(error)}"
                ) from error

    def _answered(self, result: pulsar.Result, _: pulsar.MessageId) -> None:
        if result != pulsar.Result.Ok:
            _LOG.debug("%s: not written: %s", self._topic, result)


def _close(used: pulsar.Reader | pulsar.Producer | None) -> None:
    """Close what failed: left alone it would go on trying to connect."""
    if used is None:
        return
    try:
        used.close()
    except PulsarException as error:
        _LOG.debug("closing what failed: %s", describe(error))
