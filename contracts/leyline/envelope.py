"""The signed envelope around every message that crosses the bus.

Layout: magic, ten length-prefixed fields (u32, big-endian), length-prefixed signature, end. The signature covers
everything before it, the topic included, so a message can't be moved to another topic, nor a byte between two fields.
No clock is read here: callers pass ``now`` in seconds since 1970.
"""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from leyline.errors import (
    EnvelopeError,
    ForgedEnvelope,
    MalformedEnvelope,
    StaleEnvelope,
    WrongTopic,
)
from leyline.keys import KeyRing, Signer
from leyline.replay import ReplayGuard
from leyline.topics import TOPICS, Topic, role_of

MAGIC = b"ESPER-ENVELOPE-1"
MAX_ENVELOPE = 4 * 1024 * 1024
MAX_TEXT = 256
NONCE_BYTES = 16
FRESHNESS = 30.0
# Clocks of honest machines differ by less than this; a message from further ahead is refused.
CLOCK_SKEW = 5.0
MAX_TTL = 30 * 86_400.0
_MICRO = 1_000_000
_FIELDS = 11
_MAX_U64 = 2**64 - 1


@dataclass(frozen=True)
class Opened:
    """A verified message. ``issued_at`` and ``expires_at`` are seconds since 1970.

    ``redelivery`` is true when the bus hands the same message over again; handlers are idempotent by message id.
    """

    topic: str
    type: str
    payload: bytes
    producer: str
    run: str
    sequence: int
    issued_at: float
    expires_at: float
    nonce: bytes
    key_id: str
    redelivery: bool = False


def seal(
    payload: bytes,
    type: str,
    topic: str,
    producer: str,
    sequence: int,
    signer: Signer,
    now: float,
    ttl: float,
    *,
    run: str = "",
    nonce: bytes | None = None,
) -> bytes:
    """Sign ``payload`` for ``topic``; it may be opened until ``now + ttl`` seconds, commands for 30 s at most.

    ``sequence`` rises with each message of a producer in a run. Raises WrongTopic when the topic does not exist or does
    not carry this type from this producer, and MalformedEnvelope for values the layout can't hold.
    """
    _topic(topic, type, producer)
    if not (math.isfinite(now) and now >= 0):
        raise MalformedEnvelope(f"now is {now}; pass seconds since 1970")
    if not 0 < ttl <= MAX_TTL:
        raise MalformedEnvelope(f"ttl is {ttl} s; use more than 0 and at most {MAX_TTL:.0f} s")
    if not 0 <= sequence <= _MAX_U64:
        raise MalformedEnvelope(f"sequence is {sequence}; use 0 to 2**64 - 1")
    issued = round(now * _MICRO)
    fields = [
        topic.encode(),
        type.encode(),
        _text("producer", producer),
        _text("run", run, empty=True),
        struct.pack(">Q", sequence),
        struct.pack(">Q", issued),
        struct.pack(">Q", issued + max(1, round(ttl * _MICRO))),
        secrets.token_bytes(NONCE_BYTES) if nonce is None else _nonce(nonce),
        signer.key_id.encode(),
        payload,
    ]
    body = MAGIC + b"".join(_prefixed(field) for field in fields)
    data = body + _prefixed(signer.sign(body))
    if len(data) > MAX_ENVELOPE:
        raise MalformedEnvelope(f"{len(data)} bytes long; at most {MAX_ENVELOPE}")
    return data


def open_(
    data: bytes,
    topic: str,
    keyring: KeyRing,
    now: float,
    replay_guard: ReplayGuard,
    freshness: float = FRESHNESS,
    *,
    message_id: str | None = None,
) -> Opened:
    """Verify an envelope received on ``topic`` and admit it to the guard; the guard's ``done`` ends redelivery.

    ``message_id`` is the bus's id of the delivery: the same envelope under the same id is a redelivery, under another
    id (or none) a replay. ``freshness`` in seconds binds commands only.

    Raises MalformedEnvelope, UnknownKey, WrongTopic, ForgedEnvelope, StaleEnvelope, ReplayedEnvelope, OutOfSequence,
    or ReplayGuardFull. Nothing that fails a check leaves a trace in the guard.
    """
    if not (math.isfinite(now) and now >= 0):
        raise EnvelopeError(f"now is {now}; pass seconds since 1970")
    opened, body, signature = _parse(data)
    described = _topic(topic, opened.type, opened.producer)
    if opened.topic != topic:
        raise WrongTopic(f"sealed for {opened.topic}, received on {topic}")
    key = keyring.key_for(opened.key_id, opened.producer, topic)
    if not key.verifies(body, signature):
        raise ForgedEnvelope(f"signature of {opened.type} by {opened.producer} does not fit key {opened.key_id}")
    until = opened.expires_at
    if described.needs_freshness:
        until = min(until, opened.issued_at + freshness)
    if opened.issued_at > now + CLOCK_SKEW:
        raise StaleEnvelope(f"issued {opened.issued_at - now:.1f} s ahead of this clock; synchronise the clocks")
    if now > until:
        raise StaleEnvelope(f"{opened.type} by {opened.producer} ran out {now - until:.1f} s ago")
    redelivery = replay_guard.admit(
        nonce=opened.nonce,
        message_id=message_id,
        stream=(topic, opened.run, opened.producer),
        sequence=opened.sequence if described.ordered else None,
        until=opened.expires_at,
        now=now,
    )
    return replace(opened, redelivery=True) if redelivery else opened


def claims(data: bytes) -> Opened:
    """What an envelope says of itself, unverified: for showing it to a person, never for acting on it.

    Raises MalformedEnvelope.
    """
    return _parse(data)[0]


def _topic(name: str, type: str, producer: str) -> Topic:
    topic = TOPICS.get(name)
    if topic is None:
        raise WrongTopic(f"no such topic: {name!r}")
    if type not in topic.payloads:
        raise WrongTopic(f"{name} does not carry {type!r}; it carries {', '.join(sorted(topic.payloads))}")
    if role_of(producer) not in topic.producers:
        raise WrongTopic(f"{producer!r} may not publish on {name}; {', '.join(sorted(topic.producers))} may")
    return topic


def _text(name: str, value: str, *, empty: bool = False) -> bytes:
    data = value.encode()
    if len(data) > MAX_TEXT or (not value and not empty) or not (value.isprintable()):
        raise MalformedEnvelope(f"{name} is {value[:40]!r}; use 1 to {MAX_TEXT} bytes of printable text")
    return data


def _nonce(value: bytes) -> bytes:
    if len(value) != NONCE_BYTES:
        raise MalformedEnvelope(f"a nonce has {NONCE_BYTES} bytes, not {len(value)}")
    return value


def _prefixed(field: bytes) -> bytes:
    return struct.pack(">I", len(field)) + field


def _parse(data: bytes) -> tuple[Opened, bytes, bytes]:
    """The claimed content, the signed bytes and the signature; raises MalformedEnvelope."""
    if len(data) > MAX_ENVELOPE:
        raise MalformedEnvelope(f"{len(data)} bytes long; at most {MAX_ENVELOPE}")
    if not data.startswith(MAGIC):
        raise MalformedEnvelope("does not begin as an envelope of this version")
    spans = list(islice(_spans(data), _FIELDS + 1))
    if len(spans) != _FIELDS:
        raise MalformedEnvelope(f"does not have {_FIELDS} fields")
    parts = [data[start:stop] for start, stop in spans]
    topic, type_, producer, run, sequence, issued, expires, nonce, key_id, payload, signature = parts
    numbers = []
    for name, field in (("sequence", sequence), ("issued_at", issued), ("expires_at", expires)):
        if len(field) != 8:
            raise MalformedEnvelope(f"{name} has {len(field)} bytes instead of 8")
        numbers.append(struct.unpack(">Q", field)[0])
    texts = []
    for name, field in (("topic", topic), ("type", type_), ("producer", producer), ("run", run), ("key id", key_id)):
        try:
            texts.append(field.decode())
        except UnicodeDecodeError as error:
            raise MalformedEnvelope(f"{name} is not UTF-8") from error
        _text(name, texts[-1], empty=name == "run")
    opened = Opened(
        topic=texts[0],
        type=texts[1],
        payload=payload,
        producer=texts[2],
        run=texts[3],
        sequence=numbers[0],
        issued_at=numbers[1] / _MICRO,
        expires_at=numbers[2] / _MICRO,
        nonce=_nonce(nonce),
        key_id=texts[4],
    )
    return opened, data[: spans[-1][0] - 4], signature


def _spans(data: bytes) -> Iterator[tuple[int, int]]:
    at = len(MAGIC)
    while at < len(data):
        start = at + 4
        if start > len(data):
            raise MalformedEnvelope("ends inside a length")
        at = start + int(struct.unpack_from(">I", data, start - 4)[0])
        if at > len(data):
            raise MalformedEnvelope("ends inside a field")
        yield start, at
