"""The two signing keys of a library on one machine, made once."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from esper.kernel.signing import PublicKeys, SigningKey
from esper.urza.errors import LibraryUnavailable

KEYS = "keys"


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
