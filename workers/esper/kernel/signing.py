"""Ed25519 signatures over kernel artifacts.

Two people vouch for an artifact: the compiler that it *built* these bytes, the benchmarker that it *validated* them on
some hardware with some report. Each signs a message that starts with its own purpose and length-prefixes every part, so
that neither signature can be taken for the other nor parts be shifted between fields. Keys are named by their digest.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from esper.errors import BadInput
from esper.files import write_file
from esper.kernel.errors import UnsignedArtifact

if TYPE_CHECKING:
    from esper.kernel.artifact import Artifact

__all__ = ["PublicKeys", "Signature", "SigningKey", "sign_built", "sign_validated", "verify"]

BUILT = "built"
VALIDATED = "validated"


def _key_id(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def _message(purpose: str, *parts: str) -> bytes:
    pieces = [f"esper.kernel.{purpose}.v1".encode(), *(part.encode() for part in parts)]
    return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)


@dataclass(frozen=True)
class Signature:
    """One signature as stored beside the manifest: whose key, over which digests."""

    purpose: str
    key: str
    manifest: str
    signature: str
    report: str = ""
    hardware: str = ""

    def message(self) -> bytes:
        """Return the bytes that were signed."""
        return _message(self.purpose, self.manifest, self.report, self.hardware)

    def to_dict(self) -> dict[str, str]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class SigningKey:
    """An Ed25519 private key. It signs, is saved for its owner only, and never prints or pickles itself."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path | str) -> SigningKey:
        """Read a PEM file (PKCS 8, unencrypted).

        Raises:
            BadInput: the file is missing, readable by everyone, or not an Ed25519 private key.
        """
        path = Path(path)
        try:
            if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
                raise BadInput(
                    f"{path}: a signing key must not be readable by everyone; chmod 600 it, or make a new one"
                )
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise BadInput(f"{path}: the signing key can't be read ({error.strerror})") from error
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}: not an unencrypted PEM private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadInput(f"{path}: a {type(key).__name__}, but kernels are signed with Ed25519")
        return cls(key)

    def save(self, path: Path | str) -> None:
        """Write the key as PEM with mode 0600; the file appears whole or not at all."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file(Path(path), pem, mode=0o600)

    @property
    def public(self) -> bytes:
        """The raw public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def id(self) -> str:
        """First 16 hexadecimal digits of the public key's digest."""
        return _key_id(self.public)

    def sign(self, purpose: str, manifest: str, report: str = "", hardware: str = "") -> Signature:
        """Sign digests for one purpose."""
        message = _message(purpose, manifest, report, hardware)
        return Signature(purpose, self.id, manifest, self._key.sign(message).hex(), report, hardware)

    def __repr__(self) -> str:
        return f"SigningKey({self.id})"


@dataclass(frozen=True)
class PublicKeys:
    """The public keys whose word is taken, separately for building and for validating."""

    built: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    validated: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)

    @classmethod
    def of(cls, built: Iterable[bytes | SigningKey], validated: Iterable[bytes | SigningKey]) -> PublicKeys:
        """Collect raw public keys (or the public halves of signing keys)."""

        def named(keys: Iterable[bytes | SigningKey]) -> dict[str, Ed25519PublicKey]:
            raws = [key.public if isinstance(key, SigningKey) else key for key in keys]
            return {_key_id(raw): Ed25519PublicKey.from_public_bytes(raw) for raw in raws}

        return cls(named(built), named(validated))

    @classmethod
    def from_dict(cls, data: Mapping[str, Iterable[str]]) -> PublicKeys:
        """Read ``{"built": [hex, ...], "validated": [hex, ...]}``.

        Raises:
            BadInput: another key than these two, or an entry that is not 32 bytes in hexadecimal.
        """
        if unknown := set(data) - {BUILT, VALIDATED}:
            raise BadInput(f"public keys: unknown entry {sorted(unknown)[0]!r}; allowed are 'built' and 'validated'")
        try:
            return cls.of(*([bytes.fromhex(text) for text in data.get(part, ())] for part in (BUILT, VALIDATED)))
        except ValueError as error:
            raise BadInput(f"public keys: each must be 32 bytes in hexadecimal ({error})") from error

    def to_dict(self) -> dict[str, list[str]]:
        """Return the form :meth:`from_dict` reads."""
        return {
            part: sorted(key.public_bytes_raw().hex() for key in getattr(self, part).values())
            for part in (BUILT, VALIDATED)
        }


def sign_built(artifact: Artifact, key: SigningKey) -> Signature:
    """Vouch that these bytes were built here, and store the signature in the artifact."""
    return artifact.add_signature(key.sign(BUILT, artifact.digest))


def sign_validated(artifact: Artifact, report_digest: str, hardware: str, key: SigningKey) -> Signature:
    """Vouch that the artifact passed every check on ``hardware``, as the report of that digest says; stored as well."""
    return artifact.add_signature(key.sign(VALIDATED, artifact.digest, report_digest, hardware))


def verify(artifact: Artifact, keys: PublicKeys, report: str | None = None, *, validated: bool = True) -> None:
    """Check that a known builder and, unless ``validated=False``, a known validator signed exactly this artifact.

    Args:
        artifact: the artifact, read from its directory.
        keys: whose word is taken.
        report: digest of the report the validator must have signed; None takes the one the signature names.
        validated: False while the artifact is still on its way to the benchmarker.

    Raises:
        UnsignedArtifact: a signature is missing, by an unknown key, over another manifest, report or hardware.
    """
    wanted = [(BUILT, keys.built)] + ([(VALIDATED, keys.validated)] if validated else [])
    for purpose, known in wanted:
        signature = artifact.signatures.get(purpose)
        if signature is None:
            raise UnsignedArtifact(f"{artifact.path}: the {purpose!r} signature is missing")
        key = known.get(signature.key)
        if key is None:
            raise UnsignedArtifact(f"{artifact.path}: the {purpose!r} signature is by the unknown key {signature.key}")
        if signature.purpose != purpose or signature.manifest != artifact.digest:
            raise UnsignedArtifact(f"{artifact.path}: the {purpose!r} signature is over another manifest")
        try:
            key.verify(bytes.fromhex(signature.signature), signature.message())
        except (InvalidSignature, ValueError) as error:
            raise UnsignedArtifact(f"{artifact.path}: the {purpose!r} signature is wrong") from error
        if purpose == VALIDATED and signature.hardware != artifact.manifest.hardware:
            raise UnsignedArtifact(
                f"{artifact.path}: validated on {signature.hardware!r} but built for {artifact.manifest.hardware!r}"
            )
        if purpose == VALIDATED and report is not None and signature.report != report:
            raise UnsignedArtifact(f"{artifact.path}: validated by another report than the one given")
