"""What every consumer does with a delivery: verify it, act on it once, answer for it.

    handled     acknowledged, and never acted on again by this inbox
    repeated    acknowledged: it was handled before, its answer was lost on the way
    refused     the envelope is not what it should be: nothing was acted on; it comes again, in case it was damaged on
                its way, and ends as a dead letter
    failed      the handler raised: it comes again, and ends as a dead letter with the last cause

Handlers are idempotent by message id or artifact id: a process that dies between acting and answering is given the same
message again, and its inbox remembers nothing.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

from google.protobuf.message import Message as Payload

from esper.oona.bus import Message, Subscription
from leyline.envelope import FRESHNESS, Opened, open_
from leyline.errors import EnvelopeError, ReplayedEnvelope, ReplayGuardFull
from leyline.keys import KeyRing
from leyline.messages import decode
from leyline.replay import ReplayGuard

_LOG = logging.getLogger(__name__)

REMEMBERED = 262_144
"""Messages a guard of its own remembers while they are fresh; some 60 MB when it does. Beyond, the inbox waits."""
PATIENCE = 1.0
"""Seconds between looks whether a full guard has room."""

Handler = Callable[[Payload, Opened, Message], object]


class Outcome(enum.StrEnum):
    """What became of a delivery."""

    HANDLED = "handled"
    REPEATED = "repeated"
    REFUSED = "refused"
    FAILED = "failed"


class Inbox:
    """Takes one subscription's messages. Safe to use from several threads, each with its own handler at work.

    Args:
        keyring: the keys that are trusted, each for its producers and topics.
        guard: what was seen before; give the one restored from a checkpoint, or none for a new one.
        freshness: seconds after which a command is too old.
        clock: seconds since 1970, for expiry only.
    """

    def __init__(
        self,
        subscription: Subscription,
        keyring: KeyRing,
        guard: ReplayGuard | None = None,
        *,
        freshness: float = FRESHNESS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._subscription, self._keyring = subscription, keyring
        self._guard = ReplayGuard(capacity=REMEMBERED) if guard is None else guard
        self._waiting: deque[Message] = deque()
        self._freshness, self._clock = freshness, clock
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()

    @property
    def refused(self) -> Mapping[str, int]:
        """Deliveries that failed verification, by the name of the error."""
        with self._lock:
            return MappingProxyType(dict(self._refused))

    def take(self, handler: Handler, timeout: float | None = None) -> Outcome | None:
        """Take one delivery and answer for it; ``None`` when none came within ``timeout`` seconds.

        What ``handler`` raises becomes the cause of the refusal; it is logged, not raised. Raises what ``receive``
        raises.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        message = self._next(timeout)
        if message is None:
            return None
        try:
            payload, opened = self._open_patiently(message, deadline)
        except ReplayGuardFull:
            with self._lock:
                self._waiting.append(message)
            return None
        except ReplayedEnvelope as error:
            if not error.handled:
                return self._refuse(message, error)
            self._subscription.ack(message)
            return Outcome.REPEATED
        except EnvelopeError as error:
            return self._refuse(message, error)
        try:
            handler(payload, opened, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this message's cause
            _LOG.warning("%s: delivery %d failed: %s", self._where(message), message.delivery_count, error)
            self._subscription.nack(message, f"{type(error).__name__}: {error}")
            return Outcome.FAILED
        with self._lock:
            self._guard.done(opened.nonce)
        self._subscription.ack(message)
        return Outcome.HANDLED

    def _next(self, timeout: float | None) -> Message | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
        return self._subscription.receive(timeout)

    def _open_patiently(self, message: Message, deadline: float | None) -> tuple[Payload, Opened]:
        """Open it, waiting until ``deadline`` for room in the guard; what is fresh runs out with time."""
        while True:
            try:
                return self._open(message)
            except ReplayGuardFull as error:
                _LOG.warning("%s: waits: %s", self._where(message), error)
                left = PATIENCE if deadline is None else min(PATIENCE, deadline - time.monotonic())
                if left <= 0:
                    raise
                time.sleep(left)

    def _open(self, message: Message) -> tuple[Payload, Opened]:
        with self._lock:
            opened = open_(
                message.data,
                message.topic,
                self._keyring,
                self._clock(),
                self._guard,
                self._freshness,
                message_id=message.message_id,
            )
        return decode(opened.type, opened.payload), opened

    def _refuse(self, message: Message, error: EnvelopeError) -> Outcome:
        name = type(error).__name__
        with self._lock:
            self._refused[name] += 1
        _LOG.warning("%s: refused: %s: %s", self._where(message), name, error)
        self._subscription.nack(message, f"{name}: {error}")
        return Outcome.REFUSED

    @staticmethod
    def _where(message: Message) -> str:
        return f"{message.topic}/{message.subscription} {message.message_id}"
