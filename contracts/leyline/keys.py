"""Keys that sign and verify envelopes: Ed25519 anywhere, HMAC-SHA256 inside one process only."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from leyline.errors import EnvelopeError, UnknownKey, WrongTopic
from leyline.topics import TOPICS, role_of

_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_MIN_SECRET = 16


class Algorithm(StrEnum):
    """How a key signs. The key decides, never the envelope."""

    ED25519 = "Ed25519"
    HMAC_SHA256 = "HMAC-SHA256"


def _check_key_id(key_id: str) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise EnvelopeError(f"key id {key_id!r}: use 1 to 128 letters, digits, dots, dashes, underscores or slashes")


@dataclass(frozen=True)
class VerificationKey:
    """What a verifier needs: a public key, or the shared secret of an HMAC key."""

    key_id: str
    algorithm: Algorithm
    material: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_key_id(self.key_id)
        if self.algorithm is Algorithm.ED25519:
            if len(self.material) != 32:
                raise EnvelopeError(f"key {self.key_id}: an Ed25519 public key has 32 bytes, not {len(self.material)}")
        elif len(self.material) < _MIN_SECRET:
            raise EnvelopeError(f"key {self.key_id}: an HMAC secret needs at least {_MIN_SECRET} bytes")

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """True when ``signature`` was made over ``data`` by this key's owner; HMAC compares in constant time."""
        if self.algorithm is Algorithm.HMAC_SHA256:
            return hmac.compare_digest(hmac.digest(self.material, data, "sha256"), signature)
        try:
            self._public.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _public(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.material)


class Signer:
    """A key that signs; made by ``ed25519``, ``generate`` or ``hmac``."""

    def __init__(self, verification: VerificationKey, private: Ed25519PrivateKey | None) -> None:
        self._verification = verification
        self._private = private

    @classmethod
    def ed25519(cls, key_id: str, private: bytes) -> Signer:
        """From the 32-byte seed of RFC 8032; raises EnvelopeError for another length."""
        if len(private) != 32:
            raise EnvelopeError(f"key {key_id}: an Ed25519 private key has 32 bytes, not {len(private)}")
        key = Ed25519PrivateKey.from_private_bytes(private)
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cls(VerificationKey(key_id, Algorithm.ED25519, public), key)

    @classmethod
    def generate(cls, key_id: str) -> Signer:
        """A new random Ed25519 key."""
        key = Ed25519PrivateKey.generate()
        return cls.ed25519(key_id, key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))

    @classmethod
    def hmac(cls, key_id: str, secret: bytes) -> Signer:
        """A shared secret of at least 16 bytes; keyrings accept it inside one process only."""
        return cls(VerificationKey(key_id, Algorithm.HMAC_SHA256, secret), None)

    @property
    def key_id(self) -> str:
        """The name verifiers know the key by."""
        return self._verification.key_id

    def verification_key(self) -> VerificationKey:
        """What verifiers need of this key."""
        return self._verification

    def sign(self, data: bytes) -> bytes:
        """64 bytes of Ed25519 (RFC 8032), or 32 of HMAC-SHA256 (RFC 2104)."""
        if self._private is not None:
            return self._private.sign(data)
        return hmac.digest(self._verification.material, data, "sha256")

    def __repr__(self) -> str:
        return f"Signer({self.key_id!r}, {self._verification.algorithm.value})"


@dataclass(frozen=True)
class TrustedKey:
    """A key with what it may be used for."""

    key: VerificationKey
    producers: frozenset[str]
    topics: frozenset[str]


class KeyRing:
    """Keys a consumer trusts, each for named producers on named topics.

    HMAC keys prove nothing between processes that share them, so a ring takes them only when made with
    ``in_process=True``.
    """

    def __init__(self, *, in_process: bool = False) -> None:
        self._in_process = in_process
        self._keys: dict[str, TrustedKey] = {}

    def add(self, key: VerificationKey | Signer, *, producers: Iterable[str], topics: Iterable[str]) -> None:
        """Trust ``key`` for these producers (``role`` or ``role/instance``) on these topics.

        Raises EnvelopeError for a reused id, an unknown topic, or an HMAC key on a ring between processes.
        """
        known = key.verification_key() if isinstance(key, Signer) else key
        if known.algorithm is Algorithm.HMAC_SHA256 and not self._in_process:
            raise EnvelopeError(
                f"key {known.key_id}: HMAC keys are for one process only; use Ed25519, or in_process=True"
            )
        if known.key_id in self._keys:
            raise EnvelopeError(f"key {known.key_id} is already on the ring; remove it first")
        for_producers, on_topics = frozenset(producers), frozenset(topics)
        unknown = on_topics - TOPICS.keys()
        if unknown:
            raise EnvelopeError(f"key {known.key_id}: no such topic: {', '.join(sorted(unknown))}")
        if not for_producers or not on_topics:
            raise EnvelopeError(f"key {known.key_id}: name at least one producer and one topic")
        self._keys[known.key_id] = TrustedKey(known, for_producers, on_topics)

    def remove(self, key_id: str) -> None:
        """Trust the key no longer; raises UnknownKey when it was not there."""
        if self._keys.pop(key_id, None) is None:
            raise UnknownKey(f"key {key_id} is not on the ring")

    def key_for(self, key_id: str, producer: str, topic: str) -> VerificationKey:
        """The key, when it may speak for ``producer`` on ``topic``; raises UnknownKey or WrongTopic."""
        trusted = self._keys.get(key_id)
        if trusted is None:
            raise UnknownKey(f"no key {key_id!r} on the ring; it was removed, or the sender belongs to another run")
        if trusted.producers.isdisjoint((producer, role_of(producer))):
            raise UnknownKey(f"key {key_id!r} does not speak for {producer!r}")
        if topic not in trusted.topics:
            raise WrongTopic(f"key {key_id!r} may not be used on {topic}")
        return trusted.key

    def __len__(self) -> int:
        return len(self._keys)
