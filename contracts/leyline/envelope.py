"""The signed envelope around every message that crosses the bus.

Layout: magic, ten length-prefixed fields (u32, big-endian), length-prefixed signature, end. The signature covers
everything before it, the topic included, so a message can't be moved to another topic, nor a byte between two fields.

Messages that are sealed together share one signature: it covers the root of a hash tree whose leaves are the messages,
each from its magic, another one, to its last field. Between the fields and the signature each carries its place
in the tree (index and number of messages, u32) and its path. So each is verified alone, and whoever has verified one of
them has only hashes to compute for the others.

No clock is read here: callers pass ``now`` in seconds since 1970.
"""

from __future__ import annotations

import math
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from leyline import merkle
from leyline.errors import (
    EnvelopeError,
    ForgedEnvelope,
    MalformedEnvelope,
    StaleEnvelope,
    WrongTopic,
)
from leyline.keys import KeyRing, Signer, VerificationKey
from leyline.replay import ReplayGuard
from leyline.topics import TOPICS, Topic, role_of

MAGIC = b"ESPER-ENVELOPE-1"
TOGETHER = b"ESPER-ENVELOPE-2"
MAX_TOGETHER = 256
"""Messages under one signature: a path of at most eight hashes."""
MAX_ENVELOPE = 4 * 1024 * 1024
MAX_TEXT = 256
NONCE_BYTES = 16
FRESHNESS = 30.0
# Clocks of honest machines differ by less than this; a message from further ahead is refused.
CLOCK_SKEW = 5.0
MAX_TTL = 30 * 86_400.0
_MICRO = 1_000_000
_ROOT = b"ESPER-ENVELOPE-ROOT-1"
_ROOTS_KNOWN = 4_096
_FIELDS = {MAGIC: 11, TOGETHER: 12}
_MAX_U64 = 2**64 - 1
_length, _number, _place = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">II")
# What the signature and its place in a tree may add to a draft.
_TAIL = 4 + _place.size + 8 * merkle.HASH_BYTES + 4 + 64


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


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is complete but for its signature; made by ``draft``, sealed by ``seal`` or ``seal_together``."""

    signer: Signer
    fields: bytes = field(repr=False)

    def seal(self) -> bytes:
        """Sign it, alone."""
        body = MAGIC + self.fields
        return body + _prefixed(self.signer.sign(body))


def draft(
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
) -> Draft:
    """``payload`` for ``topic``, to be sealed by ``signer``; it may be opened until ``now + ttl`` seconds, commands for
    30 s at most.

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
    fields = b"".join(
        [
            _prefixed(topic.encode()),
            _prefixed(type.encode()),
            _prefixed(_text("producer", producer)),
            _prefixed(_text("run", run, empty=True)),
            _prefixed(_number.pack(sequence)),
            _prefixed(_number.pack(issued)),
            _prefixed(_number.pack(issued + max(1, round(ttl * _MICRO)))),
            _prefixed(secrets.token_bytes(NONCE_BYTES) if nonce is None else _nonce(nonce)),
            _prefixed(signer.key_id.encode()),
            _prefixed(payload),
        ]
    )
    if (size := len(MAGIC) + len(fields) + _TAIL) > MAX_ENVELOPE:
        raise MalformedEnvelope(f"{size} bytes long; at most {MAX_ENVELOPE}")
    return Draft(signer, fields)


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
    """Sign ``payload`` for ``topic``: a ``draft``, sealed alone."""
    return draft(payload, type, topic, producer, sequence, signer, now, ttl, run=run, nonce=nonce).seal()


def seal_together(drafts: Sequence[Draft]) -> list[bytes]:
    """Seal up to ``MAX_TOGETHER`` drafts of one signer under one signature; each is an envelope of its own."""
    if not drafts:
        return []
    signer = drafts[0].signer
    if len(drafts) > MAX_TOGETHER or any(each.signer is not signer for each in drafts):
        raise EnvelopeError(f"{len(drafts)} drafts: at most {MAX_TOGETHER} of one signer share a signature")
    if len(drafts) == 1:
        return [drafts[0].seal()]
    bodies = [TOGETHER + each.fields for each in drafts]
    count = len(bodies)
    root, paths = merkle.tree([merkle.leaf(body) for body in bodies])
    signature = _prefixed(signer.sign(_signed_root(count, root)))
    return [
        body + _prefixed(_place.pack(index, count) + path) + signature
        for index, (body, path) in enumerate(zip(bodies, paths, strict=True))
    ]


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
    opened, body, place, signature = _parse(data)
    described = _topic(topic, opened.type, opened.producer)
    if opened.topic != topic:
        raise WrongTopic(f"sealed for {opened.topic}, received on {topic}")
    key = keyring.key_for(opened.key_id, opened.producer, topic)
    if not (key.verifies(body, signature) if place is None else _verifies(key, body, place, signature)):
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
    return _length.pack(len(field)) + field


def _signed_root(count: int, root: bytes) -> bytes:
    return _ROOT + _length.pack(count) + root


def _verifies(key: VerificationKey, body: bytes, place: bytes, signature: bytes) -> bool:
    """Whether this key's owner signed the tree that has ``body`` at this place."""
    index, count = _place.unpack_from(place)
    root = merkle.root_of(merkle.leaf(body), index, count, place[_place.size :])
    return root is not None and _verifies_root(key, _signed_root(count, root), signature)


@lru_cache(maxsize=_ROOTS_KNOWN)
def _verifies_root(key: VerificationKey, signed: bytes, signature: bytes) -> bool:
    """Remembered by all that the answer depends on, so that what others send can push it out but not change it."""
    return key.verifies(signed, signature)


def _parse(data: bytes) -> tuple[Opened, bytes, bytes | None, bytes]:
    """The claimed content, what was signed, its place in a tree (None: it was sealed alone) and the signature.

    Raises MalformedEnvelope.
    """
    if len(data) > MAX_ENVELOPE:
        raise MalformedEnvelope(f"{len(data)} bytes long; at most {MAX_ENVELOPE}")
    magic = data[: len(MAGIC)]
    if (count := _FIELDS.get(magic)) is None:
        raise MalformedEnvelope("does not begin as an envelope of this version")
    parts, body_end = _split(data, count)
    topic, type_, producer, run, sequence, issued, expires, nonce, key_id, payload = parts[:10]
    place = _checked_place(parts[10]) if magic == TOGETHER else None
    opened = Opened(
        topic=_read_text("topic", topic),
        type=_read_text("type", type_),
        payload=payload,
        producer=_read_text("producer", producer),
        run=_read_text("run", run),
        sequence=_read_number("sequence", sequence),
        issued_at=_read_number("issued_at", issued) / _MICRO,
        expires_at=_read_number("expires_at", expires) / _MICRO,
        nonce=_nonce(nonce),
        key_id=_read_text("key id", key_id),
    )
    return opened, data[:body_end], place, parts[-1]


def _split(data: bytes, count: int) -> tuple[list[bytes], int]:
    """The fields, and where the tenth ends, which is the last that is signed."""
    parts: list[bytes] = []
    at, body_end, size = len(MAGIC), 0, len(data)
    while at < size and len(parts) < count:
        start = at + 4
        if start > size:
            raise MalformedEnvelope("ends inside a length")
        at = start + _length.unpack_from(data, at)[0]
        if at > size:
            raise MalformedEnvelope("ends inside a field")
        parts.append(data[start:at])
        if len(parts) == 10:
            body_end = at
    if at != size or len(parts) != count:
        raise MalformedEnvelope(f"does not have {count} fields")
    return parts, body_end


def _checked_place(field: bytes) -> bytes:
    hashes = len(field) - _place.size
    if hashes < 0 or hashes % merkle.HASH_BYTES or hashes > 8 * merkle.HASH_BYTES:
        raise MalformedEnvelope(f"place has {len(field)} bytes instead of 8 and up to eight hashes")
    index, count = _place.unpack_from(field)
    if not (2 <= count <= MAX_TOGETHER and index < count):
        raise MalformedEnvelope(f"place is {index} of {count}; at most {MAX_TOGETHER} are sealed together")
    return field


def _read_number(name: str, field: bytes) -> int:
    if len(field) != 8:
        raise MalformedEnvelope(f"{name} has {len(field)} bytes instead of 8")
    return int(_number.unpack(field)[0])


@lru_cache(maxsize=1_024)
def _read_text(name: str, field: bytes) -> str:
    """Remembered: a consumer meets the same few names again and again."""
    try:
        text = field.decode()
    except UnicodeDecodeError as error:
        raise MalformedEnvelope(f"{name} is not UTF-8") from error
    _text(name, text, empty=name == "run")
    return text
