"""The two keys that vouch for kernels: of a library on one machine, made once, or of the pools, made by a person."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from esper.errors import BadInput
from esper.files import write_file
from esper.kernel.signing import PublicKeys, SigningKey
from esper.urza.errors import LibraryUnavailable

KEYS, PUBLIC = "keys", "public.json"


@dataclass(frozen=True)
class LibraryKeys:
    """Who vouches for kernels: ``built`` signs for the compiler, ``validated`` for the benchmarker."""

    built: SigningKey
    validated: SigningKey

    @property
    def public(self) -> PublicKeys:
        """What verifies them."""
        return PublicKeys.of([self.built], [self.validated])


def library_keys(directory: Path | str) -> LibraryKeys:
    """The keys in ``<directory>/keys``, made on first use with mode 0600; any number of processes get the same ones.

    Raises:
        BadInput: a key file is readable by everyone, or is not an Ed25519 key.
        LibraryUnavailable: the directory can't be written.
    """
    folder = Path(directory) / KEYS
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return LibraryKeys(_key(folder / "built.pem"), _key(folder / "validated.pem"))
    except OSError as error:
        raise LibraryUnavailable(f"{folder}: signing keys can't be made: {error.strerror or error}") from error


def make_signing_key(directory: Path, purpose: Literal["built", "validated"]) -> Path:
    """Write ``<directory>/<purpose>.pem`` (mode 0600) and add its public half to ``public.json``; returns the latter.

    Keys that are in ``public.json`` already stay: what they have signed is still believed.

    Raises:
        BadInput: there is a key already, or the directory can't be written.
    """
    path, public = directory / f"{purpose}.pem", directory / PUBLIC
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise BadInput(f"{path}: there is a key already; move it away, or name another directory")
        known = load_public_keys(public).to_dict() if public.exists() else {"built": [], "validated": []}
        key = SigningKey.generate()
        key.save(path)
        known[purpose] = sorted({*known[purpose], key.public.hex()})
        write_file(public, json.dumps(known, indent=1).encode() + b"\n")
    except OSError as error:
        raise BadInput(f"{directory}: can't be written: {error.strerror or error}") from error
    return public


def load_public_keys(path: Path) -> PublicKeys:
    """Whose signatures on kernels are taken, from a JSON file.

    Raises:
        BadInput: it can't be read, or holds something else.
    """
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BadInput(f"{path}: is not JSON") from error
    if not isinstance(said, dict):
        raise BadInput(f"{path}: must be an object with 'built' and 'validated'")
    try:
        return PublicKeys.from_dict(said)
    except (BadInput, TypeError) as error:
        raise BadInput(f"{path}: {error}") from error


def _key(path: Path) -> SigningKey:
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as aside:
            made = Path(aside) / path.name
            SigningKey.generate().save(made)
            try:
                # A link fails where there is a file: the first process wins, the others use its key.
                os.link(made, path)
            except FileExistsError:
                return SigningKey.load(path)
    return SigningKey.load(path)
