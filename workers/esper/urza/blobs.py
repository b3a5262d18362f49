"""Where artifact files live: bytes under their own sha256.

A blob never changes, so there is nothing to lock: two writers of one digest write the same bytes. What a database row
names must already be here (blob first, row after); a writer that dies in between leaves a blob without a row, which
costs space until it is swept, never a row without its blob.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

from esper.urza.errors import BlobCorrupt, BlobMissing, InvalidEntry, LibraryFull, LibraryUnavailable

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK = 1 << 20
STALE_SECONDS = 3600.0
"""Age at which a half-written file of a dead writer is removed."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One stored blob: its digest, size in bytes and time of the last ``put`` in seconds since the epoch."""

    digest: str
    size: int
    modified: float


@runtime_checkable
class BlobStore(Protocol):
    """The port. Every method may raise ``InvalidEntry`` (a malformed digest) and ``LibraryUnavailable`` (the store)."""

    def put(self, digest: str, data: bytes | Path) -> bool:
        """Store bytes, or those of a file, unless they are there already; returns whether they were written.

        Durable when it returns, and as young as if it had been written in any case. Bytes stored earlier that no longer
        have their digest are replaced. Raises ``InvalidEntry`` when ``data`` does not have this digest,
        ``LibraryFull``.
        """

    def get(self, digest: str) -> bytes:
        """Return the bytes, verified; raises ``BlobMissing``, ``BlobCorrupt``."""

    def chunks(self, digest: str) -> Iterator[bytes]:
        """The bytes piece by piece, for large ones; raises as ``get``.

        What is damaged is never given out whole: the last piece comes only when all of them have the digest.
        """

    def info(self, digest: str) -> BlobInfo | None:
        """What is stored under this digest, unread."""

    def list(self) -> Iterator[BlobInfo]:
        """Every blob, sorted by digest."""

    def delete(self, digest: str) -> bool:
        """Remove a blob; returns whether there was one."""


def check_digest(digest: str) -> str:
    """Return ``digest`` if it is one; raises ``InvalidEntry``."""
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise InvalidEntry(f"digest {digest!r}: must be 64 lower-case hexadecimal digits (sha256)")
    return digest


def pieces_of(data: bytes | Path) -> Iterator[bytes]:
    """Bytes, or those of a file, in pieces of at most ``CHUNK``."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
    else:
        yield data


def digest_of(pieces: Iterable[bytes]) -> str:
    """The sha256 of pieces put together."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def refused(digest: str, actual: str) -> InvalidEntry:
    """The error for bytes that have another digest than the one they were offered under."""
    return InvalidEntry(f"blob {digest[:16]}…: the bytes offered have the digest {actual[:16]}…; nothing was stored")


def verified(digest: str, pieces: Iterable[bytes], damaged: Callable[[int, str], BlobCorrupt]) -> Iterator[bytes]:
    """The same pieces, the last one held back until all of them are known to have the digest."""
    total, size = hashlib.sha256(), 0
    held = b""
    for piece in pieces:
        total.update(piece)
        size += len(piece)
        if held:
            yield held
        held = piece
    if total.hexdigest() != digest:
        raise damaged(size, total.hexdigest())
    if held:
        yield held


class DirectoryBlobs:
    """Blobs as read-only files ``<root>/<first two digits>/<digest>``, shared by any number of processes.

    A file is written aside, flushed to the disk and renamed, and so is the directory entry: it is there whole or not
    at all, also after a power cut.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._incoming = self.root / ".incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
        except OSError as error:
            self._fail("open", error)

    def put(self, digest: str, data: bytes | Path) -> bool:
        """See ``BlobStore.put``."""
        path = self._path(digest)
        if not isinstance(data, Path):
            actual = hashlib.sha256(data).hexdigest()
            if actual != digest:
                raise refused(digest, actual)
        try:
            if self._intact(path, digest):
                if isinstance(data, Path):
                    actual = digest_of(pieces_of(data))
                    if actual != digest:
                        raise refused(digest, actual)
                # Keeps a sweep from taking it between here and the row that will name it.
                os.utime(path)
                return False
            self._write(path, digest, data)
        except OSError as error:
            self._fail(f"write blob {digest[:16]}…", error)
        return True

    def get(self, digest: str) -> bytes:
        """See ``BlobStore.get``."""
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See ``BlobStore.chunks``."""
        path = self._path(digest)

        def damaged(size: int, actual: str) -> BlobCorrupt:
            return BlobCorrupt(
                f"{path}: {size} bytes with digest {actual[:16]}… instead of {digest[:16]}…; "
                "delete the file and build the artifact again"
            )

        try:
            yield from verified(digest, _read(path), damaged)
        except FileNotFoundError as error:
            raise BlobMissing(f"{self.root}: holds no blob {digest}; the artifact must be built again") from error
        except OSError as error:
            self._fail(f"read blob {digest[:16]}…", error)

    def info(self, digest: str) -> BlobInfo | None:
        """See ``BlobStore.info``."""
        path = self._path(digest)
        try:
            status = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._fail(f"look for blob {digest[:16]}…", error)
        return BlobInfo(digest, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def list(self) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        try:
            for shelf in sorted(self.root.iterdir()):
                if len(shelf.name) != 2 or not shelf.is_dir():
                    continue
                for path in sorted(shelf.iterdir()):
                    if _DIGEST.fullmatch(path.name) and path.name.startswith(shelf.name):
                        try:
                            stat = path.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue  # deleted by another process meanwhile
                        yield BlobInfo(path.name, stat.st_size, stat.st_mtime)
        except OSError as error:
            self._fail("list blobs", error)

    def delete(self, digest: str) -> bool:
        """See ``BlobStore.delete``."""
        path = self._path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._fail(f"delete blob {digest[:16]}…", error)
        return True

    def _path(self, digest: str) -> Path:
        check_digest(digest)
        return self.root / digest[:2] / digest

    def _intact(self, path: Path, digest: str) -> bool:
        try:
            return digest_of(_read(path)) == digest
        except FileNotFoundError:
            return False

    def _write(self, path: Path, digest: str, data: bytes | Path) -> None:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _flush_directory(self.root)
        handle, name = tempfile.mkstemp(dir=self._incoming)
        total = hashlib.sha256()
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces_of(data):
                    total.update(piece)
                    file.write(piece)
                if total.hexdigest() != digest:
                    raise refused(digest, total.hexdigest())
                file.flush()
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        _flush_directory(path.parent)

    def _remove_stale(self) -> None:
        """Remove what writers that died left half-written."""
        oldest = time.time() - STALE_SECONDS
        for path in self._incoming.iterdir():
            try:
                if path.stat(follow_symlinks=False).st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer, or another process opening the store, was faster

    def _fail(self, doing: str, error: OSError) -> NoReturn:
        if error.errno in _FULL:
            raise LibraryFull(f"{self.root}: no space left to {doing}; free some, nothing was lost") from error
        raise LibraryUnavailable(
            f"{self.root}: can't {doing}: {error.strerror or error}; check that the directory exists and is yours"
        ) from error


def _read(path: Path) -> Iterator[bytes]:
    """A regular file in pieces, without following a link."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _flush_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
