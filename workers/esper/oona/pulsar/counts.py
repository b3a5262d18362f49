"""How often a message of a work topic was handed out, kept on the broker so that no death resets it.

The broker's own count is forgotten when the last consumer of a subscription goes, which is what happens when work
kills a pool's only worker.
"""

from __future__ import annotations

import pulsar

from esper.oona.pulsar.link import Link
from esper.oona.pulsar.names import deliveries
from esper.oona.pulsar.view import View, Writer
from leyline.v1.bus_pb2 import DeliveryCount


class Counts:
    """The deliveries of one topic's messages to one subscription. Thread-safe."""

    def __init__(self, link: Link, topic: str, subscription: str, timeout: float) -> None:
        self._subscription = subscription
        self._view = View(link, deliveries(topic), DeliveryCount, _count)
        self._writer = Writer(link, deliveries(topic), DeliveryCount, timeout)

    def before(self, message_id: str) -> int:
        """Deliveries so far, by any process; raises ``BusUnavailable``."""
        return self._view.get(self._key(message_id)) or 0

    def claim(self, message_id: str, number: int) -> None:
        """Store that delivery ``number`` is made now; raises ``BusUnavailable``, and then it must not be made."""
        self._writer.put(self._key(message_id), DeliveryCount(deliveries=number))

    def forget(self, message_id: str, *, wait: bool) -> None:
        """The message was answered for good; raises ``BusUnavailable``. Not waiting leaves a count when it fails."""
        self._writer.put(self._key(message_id), DeliveryCount(), wait=wait)

    def _key(self, message_id: str) -> str:
        return f"{message_id}@{self._subscription}"


def _count(stored: DeliveryCount, _: pulsar.Message) -> int:
    return stored.deliveries
