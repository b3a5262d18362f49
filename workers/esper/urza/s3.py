"""Blobs in an S3 bucket, for a library whose writers are on many machines.

A blob is an object under its digest. A store that ignores conditions or checksums is refused when the library is opened
(``probe``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.errors import ObjectStoreError
from esper.objects import (
    ObjectGarbled,
    ObjectMissing,
    ObjectStore,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    S3Settings,
)
from esper.urza.blobs import CHUNK, BlobInfo, check_digest, digest_of, pieces_of, refused, verified
from esper.urza.errors import BlobCorrupt, BlobMissing, LibraryError, LibraryFull, LibraryUnavailable

RENEW_SECONDS = 3600.0


class S3Blobs:
    """Blobs as objects ``<prefix>blobs/<first two digits>/<digest>``, shared by any number of processes.

    ``renew_seconds`` is the age from which a blob that is put again is written again, so that it counts as fresh for
    the collector.

    Raises:
        LibraryUnavailable: the store can't be reached, or refuses the credentials; from every method.
    """

    def __init__(self, settings: S3Settings, renew_seconds: float = RENEW_SECONDS) -> None:
        self.settings = settings
        self.objects = ObjectStore(settings)
        self.place = self.objects.place
        self._renew_seconds = renew_seconds

    def put(self, digest: str, data: bytes | Path) -> bool:
        """See ``BlobStore.put``."""
        check_digest(digest)
        actual = digest_of(pieces_of(data))
        if actual != digest:
            raise refused(digest, actual)
        if self._store(digest, data, only_new=True):
            return True
        if not self._intact(digest):
            self._store(digest, data, only_new=False)
            return True
        known = self.info(digest)
        if known is None or known.modified < time.time() - self._renew_seconds:
            # The same bytes again: the only way to make an object young that every store knows.
            self._store(digest, data, only_new=False)
        return False

    def get(self, digest: str) -> bytes:
        """See ``BlobStore.get``."""
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See ``BlobStore.chunks``."""
        key = _key(digest)

        def damaged(size: int, actual: str) -> BlobCorrupt:
            return BlobCorrupt(
                f"{self.place}{key}: {size} bytes with digest {actual[:16]}… instead of {digest[:16]}…; "
                "delete the object and build the artifact again"
            )

        try:
            with _library_errors():
                yield from verified(digest, self.objects.pieces(key, CHUNK), damaged)
        except ObjectMissing as error:
            raise BlobMissing(f"{self.place}: holds no blob {digest}; the artifact must be built again") from error

    def info(self, digest: str) -> BlobInfo | None:
        """See ``BlobStore.info``."""
        with _library_errors():
            found = self.objects.info(_key(digest))
        return None if found is None else BlobInfo(digest, found.size, found.modified)

    def list(self) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        with _library_errors():
            for item in self.objects.list("blobs/"):
                shelf, _, name = item.key.removeprefix("blobs/").partition("/")
                if len(name) == 64 and name.startswith(shelf) and set(name) <= set("0123456789abcdef"):
                    yield BlobInfo(name, item.size, item.modified)

    def delete(self, digest: str) -> bool:
        """See ``BlobStore.delete``."""
        if self.info(digest) is None:
            return False
        with _library_errors():
            self.objects.delete(_key(digest))
        return True

    def download_url(self, digest: str, seconds: int) -> str:
        """An address from which anybody can read this blob, and nothing else, for so long."""
        return self.objects.address_to_read(_key(digest), seconds)

    def upload_url(self, digest: str, seconds: int) -> tuple[str, dict[str, str]]:
        """An address to which anybody can write this blob, and nothing else, for so long; with headers to send.

        The digest is part of what is signed: the store refuses other bytes.
        """
        return self.objects.address_to_write(_key(digest), digest, seconds)

    def probe(self) -> None:
        """Make sure the store keeps what this relies on.

        Raises:
            LibraryUnavailable: it can't be reached, refuses the credentials, or there is no such bucket.
            LibraryError: it writes over what is there in spite of a condition, or stores what has another digest.
        """
        with _library_errors():
            self.objects.probe()

    def close(self) -> None:
        """Close idle connections."""
        self.objects.close()

    def _store(self, digest: str, data: bytes | Path, *, only_new: bool) -> bool:
        try:
            with _library_errors():
                return self.objects.put(_key(digest), digest, data, only_new=only_new)
        except ObjectGarbled as error:
            raise refused(digest, "of other bytes") from error

    def _intact(self, digest: str) -> bool:
        try:
            for _ in self.chunks(digest):
                continue
        except (BlobCorrupt, BlobMissing):
            return False
        return True


@contextmanager
def _library_errors() -> Iterator[None]:
    """What is wrong with the store is wrong with the library; what is wrong with one object is for the caller."""
    try:
        yield
    except (ObjectMissing, ObjectGarbled):
        raise
    except ObjectStoreFull as error:
        raise LibraryFull(str(error)) from error
    except ObjectStoreUnavailable as error:
        raise LibraryUnavailable(str(error)) from error
    except ObjectStoreError as error:
        raise LibraryError(str(error)) from error


def _key(digest: str) -> str:
    check_digest(digest)
    return f"blobs/{digest[:2]}/{digest}"
