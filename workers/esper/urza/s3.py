"""Blobs in an S3 bucket, for a library whose writers are on many machines.

A put is conditional, so that what is there is never written over, and carries the digest, so that the store itself
refuses what was garbled on the way. A store that ignores either is refused when the library is opened (``probe``).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from esper.urza.blobs import CHUNK, BlobInfo, check_digest, digest_of, pieces_of, refused, verified
from esper.urza.errors import BlobCorrupt, BlobMissing, LibraryError, LibraryFull, LibraryUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED = frozenset(
    {
        "AccessDenied",
        "403",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "Forbidden",
        "ExpiredToken",
        "XAdminUserNotFound",
    }
)
_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "507", "XMinioStorageFull", "NoSpaceLeftOnDevice"})
_EXISTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_GARBLED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where a bucket is and how to reach it.

    ``endpoint``: address of the store, empty for the provider's own. Without keys the environment's credentials are
    used (variables, profile, or the machine's role). ``connect_seconds`` and ``read_seconds`` bound one attempt of
    ``attempts``; ``renew_seconds`` is the age from which a blob that is put again is written again, so that it counts
    as fresh for the collector.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = ""
    secret_key: str = ""
    connect_seconds: float = 3.0
    read_seconds: float = 30.0
    attempts: int = 3
    renew_seconds: float = 3600.0

    def __repr__(self) -> str:
        """Names the place; a key is never written out."""
        return f"S3Settings({self.endpoint or 'default endpoint'}, bucket {self.bucket!r}, prefix {self.prefix!r})"


class S3Blobs:
    """Blobs as objects ``<prefix>blobs/<first two digits>/<digest>``, shared by any number of processes.

    Raises:
        LibraryUnavailable: the store can't be reached, or refuses the credentials; from every method.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.place = f"s3://{settings.bucket}/{settings.prefix}"
        self._client: S3Client = boto3.client(
            "s3",
            endpoint_url=settings.endpoint or None,
            region_name=settings.region,
            aws_access_key_id=settings.access_key or None,
            aws_secret_access_key=settings.secret_key or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=settings.connect_seconds,
                read_timeout=settings.read_seconds,
                retries={"mode": "standard", "total_max_attempts": settings.attempts},
                max_pool_connections=32,
            ),
        )

    def put(self, digest: str, data: bytes | Path) -> bool:
        """See ``BlobStore.put``."""
        key = self._key(digest)
        actual = digest_of(pieces_of(data))
        if actual != digest:
            raise refused(digest, actual)
        if self._store(key, digest, data, only_new=True):
            return True
        if not self._intact(digest):
            self._store(key, digest, data, only_new=False)
            return True
        known = self.info(digest)
        if known is None or known.modified < time.time() - self.settings.renew_seconds:
            # The same bytes again: the only way to make an object young that every store knows.
            self._store(key, digest, data, only_new=False)
        return False

    def get(self, digest: str) -> bytes:
        """See ``BlobStore.get``."""
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See ``BlobStore.chunks``."""
        key = self._key(digest)

        def damaged(size: int, actual: str) -> BlobCorrupt:
            return BlobCorrupt(
                f"{self.place}{key}: {size} bytes with digest {actual[:16]}… instead of {digest[:16]}…; "
                "delete the object and build the artifact again"
            )

        def pieces() -> Iterator[bytes]:
            body = self._client.get_object(Bucket=self.settings.bucket, Key=key)["Body"]
            with body:
                yield from body.iter_chunks(CHUNK)

        try:
            yield from verified(digest, pieces(), damaged)
        except (ClientError, BotoCoreError, OSError) as error:
            if _code(error) in _MISSING:
                raise BlobMissing(f"{self.place}: holds no blob {digest}; the artifact must be built again") from error
            self._fail(f"read blob {digest[:16]}…", error)

    def info(self, digest: str) -> BlobInfo | None:
        """See ``BlobStore.info``."""
        key = self._key(digest)
        try:
            found = self._client.head_object(Bucket=self.settings.bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _MISSING:
                return None
            self._fail(f"look for blob {digest[:16]}…", error)
        return BlobInfo(digest, found["ContentLength"], found["LastModified"].timestamp())

    def list(self) -> Iterator[BlobInfo]:
        """See ``BlobStore.list``."""
        start = f"{self.settings.prefix}blobs/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.settings.bucket, Prefix=start)
        try:
            for page in pages:
                for item in page.get("Contents", ()):
                    shelf, _, name = item["Key"].removeprefix(start).partition("/")
                    if len(name) == 64 and name.startswith(shelf) and set(name) <= set("0123456789abcdef"):
                        yield BlobInfo(name, item["Size"], item["LastModified"].timestamp())
        except (ClientError, BotoCoreError) as error:
            self._fail("list blobs", error)

    def delete(self, digest: str) -> bool:
        """See ``BlobStore.delete``."""
        key = self._key(digest)
        if self.info(digest) is None:
            return False
        self._call(f"delete blob {digest[:16]}…", self._client.delete_object, Bucket=self.settings.bucket, Key=key)
        return True

    def download_url(self, digest: str, seconds: int) -> str:
        """An address from which anybody can read this blob, and nothing else, for so long."""
        return self._signed("get_object", seconds, Key=self._key(digest))

    def upload_url(self, digest: str, seconds: int) -> tuple[str, dict[str, str]]:
        """An address to which anybody can write this blob, and nothing else, for so long; with headers to send.

        The digest is part of what is signed: the store refuses other bytes.
        """
        key = self._key(digest)
        headers = {"x-amz-checksum-sha256": _checksum(digest), "If-None-Match": "*"}
        return (
            self._signed("put_object", seconds, Key=key, ChecksumSHA256=_checksum(digest), IfNoneMatch="*"),
            headers,
        )

    def probe(self) -> None:
        """Make sure the store keeps what this relies on.

        Raises:
            LibraryUnavailable: it can't be reached, refuses the credentials, or there is no such bucket.
            LibraryError: it writes over what is there in spite of a condition, or stores what has another digest.
        """
        key = f"{self.settings.prefix}probe/{secrets.token_hex(8)}"
        sent = hashlib.sha256(b"urza").hexdigest()
        if not self._store(key, sent, b"urza", only_new=True):
            raise LibraryError(f"{self.place}: says that a new object exists already; use another store")
        try:
            if self._store(key, sent, b"urza", only_new=True):
                raise LibraryError(
                    f"{self.place}: does not honour conditional puts (If-None-Match: *); two writers could overwrite "
                    "each other. Use a store, or a version of it, that does"
                )
            if self._takes_garbled(key, sent):
                raise LibraryError(f"{self.place}: stores bytes that do not have their checksum; use another store")
        finally:
            self._call("remove its probe", self._client.delete_object, Bucket=self.settings.bucket, Key=key)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _takes_garbled(self, key: str, digest: str) -> bool:
        try:
            self._client.put_object(
                Bucket=self.settings.bucket, Key=key, Body=b"other", ChecksumSHA256=_checksum(digest)
            )
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _GARBLED:
                return False
            self._fail("check that digests are checked", error)
        return True

    def _store(self, key: str, digest: str, data: bytes | Path, *, only_new: bool) -> bool:
        """Write an object; ``False`` when it is there and only a new one was to be written."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if only_new else {}
        body = data.open("rb") if isinstance(data, Path) else data
        try:
            self._client.put_object(
                Bucket=self.settings.bucket, Key=key, Body=body, ChecksumSHA256=_checksum(digest), **condition
            )
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _EXISTS and only_new:
                return False
            if _code(error) in _GARBLED:
                raise refused(digest, "of other bytes") from error
            self._fail(f"write {key}", error)
        finally:
            if not isinstance(body, bytes):
                body.close()
        return True

    def _intact(self, digest: str) -> bool:
        try:
            for _ in self.chunks(digest):
                continue
        except (BlobCorrupt, BlobMissing):
            return False
        return True

    def _signed(self, method: str, seconds: int, **parameters: Any) -> str:
        return self._client.generate_presigned_url(
            method, Params={"Bucket": self.settings.bucket, **parameters}, ExpiresIn=seconds
        )

    def _call(self, doing: str, method: Callable[..., T], **parameters: Any) -> T:
        try:
            return method(**parameters)
        except (ClientError, BotoCoreError) as error:
            self._fail(doing, error)

    def _key(self, digest: str) -> str:
        check_digest(digest)
        return f"{self.settings.prefix}blobs/{digest[:2]}/{digest}"

    def _fail(self, doing: str, error: Exception) -> NoReturn:
        code = _code(error)
        if code in _FULL:
            raise LibraryFull(f"{self.place}: no space left to {doing}; free some, nothing was lost") from error
        if code in _REFUSED:
            raise LibraryUnavailable(
                f"{self.place}: refuses to {doing} ({code}); check the credentials and their rights"
            ) from error
        if code == "NoSuchBucket":
            raise LibraryUnavailable(
                f"{self.place}: there is no such bucket; create it, or name another one"
            ) from error
        # The driver's own words may quote the request, but never its credentials.
        what = code or f"{type(error).__name__}: {error}"
        raise LibraryUnavailable(f"{self.place}: can't {doing} ({what}); is the store up?") from error


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _checksum(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode("ascii")
