"""Keys of processes in files: a private one for who signs, and a folder of public ones for who verifies.

    NAME.pem            the key that signs, for its process alone (mode 0600)
    trusted/NAME.json   its public half, and for which producers and topics it is believed

Between processes keys are Ed25519. A key's id follows from the key itself, so that no file can claim another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from esper.errors import BadInput
from leyline.errors import EnvelopeError, UnknownKey
from leyline.keys import Algorithm, KeyRing, Signer, VerificationKey
from leyline.topics import TOPICS

TRUSTED = "trusted"
LOOK_SECONDS = 1.0
"""How often a folder of trusted keys is looked at again, at most."""
ROLES = frozenset().union(*(topic.producers for topic in TOPICS.values()))
"""Everybody who may publish something."""


def make_key(directory: Path, name: str, roles: Iterable[str], topics: Iterable[str] | None = None) -> Path:
    """Write a new key and what others need to trust it; returns the latter's path.

    Args:
        directory: made when it is not there.
        name: of the two files.
        roles: whom the key speaks for, such as ``tezzeret``.
        topics: on which topics; all that these roles publish on if not given.

    Raises:
        BadInput: an unknown role or topic, a key of this name is there already, or the directory can't be written.
    """
    speaks = sorted(set(roles))
    if unknown := [role for role in speaks if role not in ROLES]:
        raise BadInput(f"role {unknown[0]!r}: publishes nothing; there are {', '.join(sorted(ROLES))}")
    if not speaks:
        raise BadInput(f"key {name}: name at least one role it speaks for")
    if not name or Path(name).name != name or name.startswith("."):
        raise BadInput(f"key {name!r}: must be a plain file name")
    theirs = {topic.name for topic in TOPICS.values() if topic.producers & set(speaks)}
    wanted = sorted(theirs if topics is None else set(topics))
    if foreign := [topic for topic in wanted if topic not in theirs]:
        raise BadInput(
            f"topic {foreign[0]!r}: {' and '.join(speaks)} may not publish on it; allowed: {', '.join(sorted(theirs))}"
        )
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    trust = {"key_id": key_id(public), "public_key": public.hex(), "producers": speaks, "topics": wanted}
    path = directory / TRUSTED / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_new(
            directory / f"{name}.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600
        )
        _write_new(path, json.dumps(trust, indent=1).encode() + b"\n", 0o644)
    except FileExistsError as error:
        raise BadInput(f"{error.filename2 or error.filename}: there is a key already; choose another name") from error
    except OSError as error:
        raise BadInput(f"{directory}: can't be written: {error.strerror or error}") from error
    return path


def key_id(public: bytes) -> str:
    """First 16 hexadecimal digits of a public key's digest."""
    return hashlib.sha256(public).hexdigest()[:16]


def load_signer(path: Path) -> Signer:
    """The key in a PEM file.

    Raises:
        BadInput: it is missing, readable by everyone, or not an Ed25519 key.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO:
            raise BadInput(f"{path}: a signing key must not be readable by everyone; chmod 600 it, or make a new one")
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise BadInput(
            f"{path}: can't be read: {error.strerror or error}; make one with `esper oona keygen`"
        ) from error
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: is not a key of `esper oona keygen`") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: a {type(key).__name__}, but messages are signed with Ed25519")
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Signer.ed25519(key_id(public), key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


class TrustedFolder(KeyRing):
    """The keys of a folder, followed as files come and go: a key is trusted while its file is there. Thread-safe.

    A file that can't be read later on is as one that is gone.

    Raises:
        BadInput: the folder is missing or empty, or one of its files is not a trusted key.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._held = threading.Lock()
        self._files: dict[str, tuple[int, ...]] = {}
        self._ids: dict[str, str] = {}
        self._looked = time.monotonic()
        problems = self._follow()
        if problems:
            raise BadInput("\n".join(problems))
        if not self._ids:
            raise BadInput(f"{folder}: holds no trusted key; put the .json files of `esper oona keygen` there")

    def key_for(self, key_id: str, producer: str, topic: str) -> VerificationKey:
        """See ``KeyRing.key_for``."""
        with self._held:
            if time.monotonic() >= self._looked + LOOK_SECONDS:
                self._looked = time.monotonic()
                self._follow()
            return super().key_for(key_id, producer, topic)

    def _follow(self) -> list[str]:
        """Bring the ring in line with the folder; returns what is wrong there."""
        problems: list[str] = []
        files: dict[str, tuple[int, ...]] = {}
        try:
            paths = sorted(self._folder.glob("*.json"))
        except OSError as error:
            return [f"{self._folder}: can't be read: {error.strerror or error}"]
        for path in paths:
            with contextlib.suppress(OSError):  # gone since it was listed
                found = path.stat()
                files[path.name] = (found.st_ino, found.st_mtime_ns, found.st_size)
        if files == self._files and self._ids:
            return []
        for name in [name for name in self._ids if files.get(name) != self._files.get(name)]:
            with contextlib.suppress(UnknownKey):
                self.remove(self._ids.pop(name))
        for name in files:
            if name in self._ids:
                continue
            try:
                self._ids[name] = self._trust(self._folder / name)
            except (BadInput, EnvelopeError) as error:
                problems.append(str(error))
        self._files = files
        return problems

    def _trust(self, path: Path) -> str:
        try:
            said = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: can't be read as JSON ({type(error).__name__})") from error
        try:
            public = bytes.fromhex(said["public_key"])
            claimed, producers, topics = said["key_id"], _texts(said["producers"]), _texts(said["topics"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: is not a file of `esper oona keygen`") from error
        if claimed != key_id(public):
            raise BadInput(f"{path}: key_id does not belong to this public key")
        try:
            self.add(VerificationKey(claimed, Algorithm.ED25519, public), producers=producers, topics=topics)
        except EnvelopeError as error:
            raise BadInput(f"{path}: {error}") from error
        return str(claimed)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError
    return value


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not be there yet; it appears whole or not at all."""
    handle, aside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(aside, mode)
        os.link(aside, path)
    finally:
        os.unlink(aside)
