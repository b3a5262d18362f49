"""Sealed messages for tests of the bus: who sends, what is sent, and a consumer that notes what it acted on."""

from __future__ import annotations

import itertools
import time
from collections import Counter

from google.protobuf.message import Message as Payload

from esper.oona import Bus, Inbox, Message, Subscription
from leyline.envelope import Opened, seal
from leyline.keys import KeyRing, Signer
from leyline.messages import FieldReport, KernelCompileRequest, encode, topic_of, type_of
from leyline.topics import COMPILE, FIELD_REPORTS


def report(number: int) -> FieldReport:
    return FieldReport(run="run", seed_id=f"seed-{number}")


def request(number: int) -> KernelCompileRequest:
    return KernelCompileRequest(kernel_artifact_id=f"artifact-{number}")


def name_of(payload: Payload) -> str:
    """What a message is about."""
    if isinstance(payload, FieldReport):
        return payload.seed_id
    assert isinstance(payload, KernelCompileRequest)
    return payload.kernel_artifact_id


class Sender:
    """Seals and publishes as one producer with one key."""

    def __init__(self, bus: Bus, producer: str = "tamiyo", ttl: float = 3600.0) -> None:
        self._bus, self.producer, self._ttl = bus, producer, ttl
        self.signer = Signer.generate(f"key-of-{producer}")
        self._numbers = itertools.count(1)

    def sealed(self, payload: Payload, now: float | None = None) -> bytes:
        """The envelope, as issued at ``now``."""
        topic = topic_of(payload).name
        issued = time.time() if now is None else now
        return seal(
            encode(payload), type_of(payload), topic, self.producer, next(self._numbers), self.signer, issued, self._ttl
        )

    def send(self, payload: Payload) -> str:
        return self._bus.publish(topic_of(payload).name, self.sealed(payload), key=name_of(payload))

    def ring(self) -> KeyRing:
        """What a consumer of this sender trusts."""
        ring = KeyRing()
        ring.add(self.signer, producers=[self.producer], topics=[FIELD_REPORTS, COMPILE])
        return ring


class Diary:
    """A consumer that writes down what it acted on."""

    def __init__(self, subscription: Subscription, ring: KeyRing) -> None:
        self.inbox = Inbox(subscription, ring)
        self.acted: Counter[str] = Counter()

    def take(self, timeout: float) -> bool:
        """Take one; whether there was one."""
        return self.inbox.take(self._act, timeout) is not None

    def take_until(self, expected: int, patience: float) -> None:
        """Take until so many different things were acted on."""
        deadline = time.monotonic() + patience
        while len(self.acted) < expected:
            assert time.monotonic() < deadline, f"{len(self.acted)} of {expected} arrived within {patience} s"
            self.take(0.2)

    def _act(self, payload: Payload, _: Opened, __: Message) -> None:
        self.acted[name_of(payload)] += 1
