"""Messages of the kernel pipeline: sealed on the way out, verified on the way in, in the contracts' own terms."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from google.protobuf.message import Message as Payload

from esper.oona import Bus, Message
from leyline.envelope import Opened, open_, seal
from leyline.interface import Interface, Layout
from leyline.keys import KeyRing, Signer
from leyline.messages import decode, encode, topic_of, type_of
from leyline.replay import ReplayGuard
from leyline.topics import BENCHMARK, CATALOG, COMPILE
from leyline.v1 import kernels_pb2 as wire

PIPELINE = (COMPILE, BENCHMARK, CATALOG)
ROLES = ("weatherlight", "urza", "tezzeret", "urabrask")
WORK_SECONDS = 7 * 86_400.0
"""How long a request or a verdict may wait to be handled."""

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
    """Sends and opens the pipeline's messages with one secret that never leaves the process. Thread-safe.

    ``clock`` gives seconds since 1970; it is used for expiry only.
    """

    def __init__(self, bus: Bus, *, clock: Callable[[], float] = time.time) -> None:
        self._bus = bus
        self._clock = clock
        self._signer = Signer.hmac("weatherlight/pipeline", secrets.token_bytes(32))
        self._ring = KeyRing(in_process=True)
        self._ring.add(self._signer, producers=ROLES, topics=PIPELINE)
        self._guards = {topic: ReplayGuard() for topic in PIPELINE}
        self._sequences: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        self._lock = threading.Lock()

    def send(self, payload: Payload, producer: str, artifact_id: str) -> str:
        """Publish on the payload's own topic, keyed by the artifact; returns the message id. Raises ``BusFull``."""
        topic = topic_of(payload).name
        with self._lock:
            sequence = next(self._sequences[producer])
        data = seal(
            encode(payload), type_of(payload), topic, producer, sequence, self._signer, self._clock(), WORK_SECONDS
        )
        return self._bus.publish(topic, data, key=artifact_id, properties={"artifact": artifact_id})

    def open(self, message: Message) -> tuple[Payload, Opened]:
        """The payload of a delivery; raises ``EnvelopeError`` for one that is damaged, forged, too old or replayed."""
        with self._lock:
            opened = open_(
                message.data,
                message.topic,
                self._ring,
                self._clock(),
                self._guards[message.topic],
                message_id=message.message_id,
            )
        return decode(opened.type, opened.payload), opened

    def done(self, message: Message, opened: Opened) -> None:
        """A delivery was handled for good: the same message is refused from now on."""
        with self._lock:
            self._guards[message.topic].done(opened.nonce)


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
