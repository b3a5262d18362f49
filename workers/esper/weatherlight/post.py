"""Messages of the kernel pipeline: sealed on the way out, verified on the way in, in the contracts' own terms."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Self

from google.protobuf.message import Message as Payload

from esper.oona import Bus, BusFull, BusUnavailable, Inbox, Subscription
from esper.urza import FieldReport
from esper.weatherlight.backoff import Backoff
from leyline.envelope import draft, open_
from leyline.interface import Interface, Layout
from leyline.keys import KeyRing, Signer
from leyline.messages import decode, encode, topic_of, type_of
from leyline.replay import ReplayGuard
from leyline.topics import BENCHMARK, CATALOG, COMPILE
from leyline.v1 import kernels_pb2 as wire
from leyline.v1 import telemetry_pb2 as telemetry

PIPELINE = (COMPILE, BENCHMARK, CATALOG)
ROLES = ("weatherlight", "urza", "tezzeret", "urabrask")
FLUSH_SECONDS = 1.0
_PATIENCE = Backoff(first=0.05, longest=2.0, tries=30)

_LAYOUTS = {
    Layout.VECTOR: wire.LAYOUT_VECTOR,
    Layout.SEQUENCE: wire.LAYOUT_SEQUENCE,
    Layout.IMAGE1D: wire.LAYOUT_IMAGE1D,
    Layout.IMAGE2D: wire.LAYOUT_IMAGE2D,
}
_STRATEGIES = {
    "fast": wire.STRATEGY_FAST,
    "standard": wire.STRATEGY_STANDARD,
    "aggressive": wire.STRATEGY_AGGRESSIVE,
}


class Post:
    """Sends and opens the pipeline's messages. Thread-safe.

    Args:
        bus: carries them.
        signer: signs what this process sends.
        ring: whose messages are believed.
        instance: tells processes of one role apart; empty where there is one process.
        clock: seconds since 1970, for expiry only.
    """

    def __init__(
        self, bus: Bus, signer: Signer, ring: KeyRing, *, instance: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._bus, self._signer, self._ring = bus, signer, ring
        self._instance, self._clock = instance, clock
        self._sequences: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self._lock = threading.Lock()

    @classmethod
    def in_process(cls, bus: Bus, *, clock: Callable[[], float] = time.time) -> Self:
        """With one secret that never leaves this process, believed for every role."""
        signer, ring = Signer.hmac("weatherlight/pipeline", secrets.token_bytes(32)), KeyRing(in_process=True)
        ring.add(signer, producers=ROLES, topics=PIPELINE)
        return cls(bus, signer, ring, clock=clock)

    def send(self, payload: Payload, role: str, key: str, *, run: str = "") -> str:
        """Publish on the payload's own topic, good for as long as that keeps messages; returns the message id.

        Raises ``BusFull``.
        """
        topic = topic_of(payload)
        producer = f"{role}/{self._instance}" if self._instance else role
        with self._lock:
            sequence = next(self._sequences[producer])
        message = draft(
            encode(payload), type_of(payload), topic.name, producer, sequence, self._signer, self._clock(),
            topic.retention, run=run,
        )  # fmt: skip
        return self._bus.publish(topic.name, message, key=key)

    def send_patiently(
        self, payload: Payload, role: str, key: str, stop: threading.Event, *, run: str = "",
        backoff: Backoff = _PATIENCE,
    ) -> None:  # fmt: skip
        """Send, waiting while the queue is full, and until the bus has it; told to stop, it waits no longer.

        Raises ``BusFull`` after the last try, ``BusUnavailable`` when told to stop before the bus has it.
        """
        failures = 0
        while True:
            try:
                self.send(payload, role, key, run=run)
                break
            except BusFull:
                failures += 1
                wait = backoff.wait(failures)
                if wait is None or stop.wait(wait):
                    raise
        # Whoever answers for a message because of this one must know that it is safe.
        while left := self._bus.flush(FLUSH_SECONDS):
            if stop.is_set():
                raise BusUnavailable(f"{left} messages could not be handed to the bus before this was stopped")

    def inbox(self, subscription: Subscription) -> Inbox:
        """What takes the messages of a subscription, each once."""
        return Inbox(subscription, self._ring, clock=self._clock)

    def peek(self, topic: str, data: bytes) -> Payload:
        """What a message holds that is not to be acted on as such; raises ``EnvelopeError`` as an inbox would."""
        opened = open_(data, topic, self._ring, self._clock(), ReplayGuard())
        return decode(opened.type, opened.payload)


def interface_to_wire(interface: Interface) -> wire.KernelInterface:
    """An interface in the contracts' terms."""
    return wire.KernelInterface(
        layout=_LAYOUTS[interface.layout],
        width=interface.width,
        trailing=interface.trailing,
        dtype=interface.dtype,
        batch_min=interface.batch[0],
        batch_max=interface.batch[1],
    )


def interface_from_wire(value: wire.KernelInterface) -> Interface:
    """The inverse of ``interface_to_wire``; raises ``InterfaceError``."""
    layouts = {number: layout for layout, number in _LAYOUTS.items()}
    return Interface(
        layouts.get(value.layout, ""),  # type: ignore[arg-type]
        value.width,
        tuple(value.trailing),
        value.dtype,
        (value.batch_min, value.batch_max),
    )


def strategy_to_wire(strategy: str) -> wire.Strategy:
    """A strategy's number; raises ``KeyError`` for one there is not."""
    return _STRATEGIES[strategy]


def strategy_from_wire(value: wire.Strategy) -> str:
    """A strategy's name; raises ``ValueError`` for a number without one."""
    for name, number in _STRATEGIES.items():
        if number == value:
            return name
    raise ValueError(f"strategy {value} is not one")


def field_report_from_wire(value: telemetry.FieldReport) -> FieldReport:
    """What the library keeps of a field report; raises ``ValueError`` for an outcome there is not."""
    outcome = telemetry.Outcome.Name(value.outcome).removeprefix("OUTCOME_")
    measured = bool(value.metric)
    return FieldReport(
        message_id=value.report_id, run=value.run, seed=value.seed_id, blueprint=value.blueprint,
        artifact_id=value.kernel_artifact_id, outcome=outcome,
        pre_metric=value.metric_before if measured else None, post_metric=value.metric_after if measured else None,
        measurements=dict(value.measurements),
    )  # fmt: skip
