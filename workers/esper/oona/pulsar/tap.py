"""The broker's consumer of one subscription, kept connected.

The client reconnects by itself, but waits ever longer between its attempts, up to a minute. A connection that is lost
for more than a few seconds is given up here and a new consumer takes the place of the old one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pulsar
from pulsar.exceptions import AlreadyClosed, PulsarException, Timeout

from esper.oona.bus import BusUnavailable, SubscriptionBusy
from esper.oona.pulsar.link import describe

_LOG = logging.getLogger(__name__)

LOST_SECONDS = 3.0
"""How long a lost connection may take to come back by itself."""


class Tap:
    """Takes messages and gives answers. ``fetch`` is for one thread at a time; the rest is thread-safe.

    ``opener`` opens the consumer, now and whenever its connection was lost for long. Raises what it raises now.
    """

    def __init__(self, name: str, opener: Callable[[], pulsar.Consumer]) -> None:
        self.name = name
        self._opener = opener
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._troubled = False
        self._consumer: pulsar.Consumer | None = opener()
        self._connected_at = time.monotonic()

    def fetch(self, seconds: float) -> pulsar.Message | None:
        """The broker's next message, or ``None`` after so many seconds.

        Raises ``BusUnavailable`` and, when the topic is gone, ``BusError``.
        """
        consumer = self._consumer
        if consumer is None:
            if not self._reopen():
                self._ended.wait(seconds)
            return None
        try:
            message = consumer.receive(timeout_millis=round(seconds * 1000))
        except Timeout:
            now = time.monotonic()
            if consumer.is_connected():
                self._connected_at = now
            elif now - self._connected_at > LOST_SECONDS:
                self._retire()
            return None
        except AlreadyClosed:
            self._retire()
            return None
        except PulsarException as error:
            raise BusUnavailable(f"{self.name}: {describe(error)}") from error
        self._connected_at = time.monotonic()
        return message

    def acknowledge(self, identity: pulsar.MessageId) -> None:
        """Answer for a message for good; an answer the broker does not hear makes it offer the message again."""
        self._answer("an answer", lambda consumer: consumer.acknowledge(identity))

    def refuse(self, identity: pulsar.MessageId) -> None:
        """Ask for a message to be offered again, to whoever is free."""
        self._answer("a refusal", lambda consumer: consumer.negative_acknowledge(identity))

    def close(self) -> None:
        """End it: what was not answered goes to the next consumer."""
        self._ended.set()
        self._retire()

    def _answer(self, what: str, action: Callable[[pulsar.Consumer], object]) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        try:
            action(consumer)
        except PulsarException as error:
            _LOG.debug("%s: %s did not reach the broker: %s", self.name, what, describe(error))

    def _reopen(self) -> bool:
        if self._ended.is_set():
            return False
        try:
            consumer = self._opener()
        except (BusUnavailable, SubscriptionBusy) as error:
            # Busy with the consumer that was lost, until the broker notices. Said once for each outage.
            _LOG.log(logging.DEBUG if self._troubled else logging.WARNING, "%s: %s; trying again", self.name, error)
            self._troubled = True
            return False
        _LOG.info("%s: subscribed again", self.name)
        self._troubled = False
        self._connected_at = time.monotonic()
        self._consumer = consumer
        if self._ended.is_set():
            self._retire()
        return True

    def _retire(self) -> None:
        """Close the broker's consumer, once."""
        with self._lock:
            consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            consumer.close()
        except PulsarException as error:
            _LOG.debug("%s: closing its consumer: %s", self.name, describe(error))
