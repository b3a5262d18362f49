"""Faults at the bus's port: any bus, wrapped so that what passes through it suffers. Seeded, so that a run repeats.

On the way in, a message may be published twice, held back behind later ones, or an old one sent again under an id of
its own, as who recorded it would. On the way out, a delivery may arrive damaged, and an acknowledgement may be lost, so
that the message comes again though it was handled. ``settle`` lets go what is held back.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from esper.oona import MAX_DELIVERIES, Bus, Message, Subscription
from leyline.topics import SubscriptionType


@dataclass(frozen=True)
class Faults:
    """How likely each fault is, 0 to 1; ``delay`` holds a message back for up to ``longest`` later ones."""

    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    longest: int = 5
    replay: float = 0.0
    corrupt: float = 0.0
    lose_ack: float = 0.0


EVERYTHING = Faults(duplicate=0.15, reorder=0.15, delay=0.15, replay=0.1, corrupt=0.15, lose_ack=0.15)

Sent = tuple[str, bytes, str | None, Mapping[str, str], str | None]


class FaultyBus:
    """A ``Bus`` with faults; what is not a fault is the wrapped bus's own. ``happened`` counts the faults."""

    def __init__(self, inner: Bus, faults: Faults = EVERYTHING, seed: int = 0) -> None:
        self._inner, self._faults = inner, faults
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._held: list[tuple[int, Sent]] = []
        self._recorded: list[Sent] = []
        self.happened: Counter[str] = Counter()

    def publish(
        self,
        topic: str,
        data: bytes,
        *,
        key: str | None = None,
        properties: Mapping[str, str] | None = None,
        message_id: str | None = None,
    ) -> str:
        """See ``Bus.publish``; a message that is held back has its id already."""
        with self._lock:
            identity = message_id or f"{self._random.getrandbits(128):032x}"
            sent: Sent = (topic, data, key, dict(properties or {}), identity)
            self._let_go(1)
            if self._strikes("reorder"):
                self._held.append((1, sent))
            elif self._strikes("delay"):
                self._held.append((self._random.randint(1, self._faults.longest), sent))
            else:
                self._send(sent)
            if self._strikes("duplicate"):
                self._send(sent)
            if self._recorded and self._strikes("replay"):
                self._send((*self._random.choice(self._recorded)[:4], None))
            self._recorded = [*self._recorded[-99:], sent]
            return identity

    def settle(self) -> None:
        """Send what is held back."""
        with self._lock:
            self._let_go(len(self._held) + self._faults.longest)

    def flush(self, timeout: float) -> int:
        """See ``Bus.flush``; what is held back is sent first."""
        self.settle()
        return self._inner.flush(timeout)

    def subscribe(
        self,
        topic: str,
        name: str,
        kind: SubscriptionType | str | None = None,
        *,
        key: str | None = None,
        hardware: str | None = None,
    ) -> Subscription:
        """See ``Bus.subscribe``."""
        return FaultySubscription(self, self._inner.subscribe(topic, name, kind, key=key, hardware=hardware))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _strikes(self, fault: str) -> bool:
        with self._lock:
            struck = self._random.random() < getattr(self._faults, fault)
            self.happened[fault] += struck
            return struck

    def _let_go(self, steps: int) -> None:
        due = [sent for left, sent in self._held if left <= steps]
        self._held = [(left - steps, sent) for left, sent in self._held if left > steps]
        for sent in due:
            self._send(sent)

    def _send(self, sent: Sent) -> None:
        topic, data, key, properties, identity = sent
        self._inner.publish(topic, data, key=key, properties=properties, message_id=identity)

    def _damaged(self, data: bytes) -> bytes:
        with self._lock:
            if not data:
                return b"\0"
            place = self._random.randrange(len(data))
            return data[:place] + bytes([data[place] ^ (1 << self._random.randrange(8))]) + data[place + 1 :]


class FaultySubscription:
    """A ``Subscription`` with faults. The last delivery is spared, so that no fault alone makes a dead letter."""

    def __init__(self, bus: FaultyBus, inner: Subscription) -> None:
        self._bus, self._inner = bus, inner

    @property
    def topic(self) -> str:
        """See ``Subscription.topic``."""
        return self._inner.topic

    @property
    def name(self) -> str:
        """See ``Subscription.name``."""
        return self._inner.name

    def receive(self, timeout: float | None = None) -> Message | None:
        """See ``Subscription.receive``."""
        message = self._inner.receive(timeout)
        if message is None or message.delivery_count >= MAX_DELIVERIES - 1 or not self._bus._strikes("corrupt"):
            return message
        return replace(message, data=self._bus._damaged(message.data))

    def ack(self, message: Message) -> bool:
        """See ``Subscription.ack``; when it is lost the message comes again."""
        if message.delivery_count < MAX_DELIVERIES - 1 and self._bus._strikes("lose_ack"):
            return self._inner.nack(message, "its acknowledgement was lost")
        return self._inner.ack(message)

    def nack(self, message: Message, cause: str) -> bool:
        """See ``Subscription.nack``."""
        return self._inner.nack(message, cause)

    def close(self) -> None:
        """See ``Subscription.close``."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
