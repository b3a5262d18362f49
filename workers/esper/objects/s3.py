"""One prefix of a bucket as a place for objects.

A put can be conditional, so that what is there is never written over, and carries the digest, so that the store itself
refuses what was garbled on the way. A store that ignores either is refused by :meth:`ObjectStore.probe`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from esper.objects.errors import (
    ObjectGarbled,
    ObjectMissing,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    UnsafeObjectStore,
)
from esper.objects.settings import S3Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

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
class ObjectInfo:
    """One stored object: its key below the prefix, size in bytes and time of the last put in seconds since 1970."""

    key: str
    size: int
    modified: float


class ObjectStore:
    """The objects below a prefix, shared by any number of processes. Thread-safe.

    Keys are relative to the prefix. Digests are SHA-256, 64 hexadecimal digits.

    Raises:
        ObjectStoreUnavailable: the store can't be reached, or refuses the credentials; from every method.
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

    def put(self, key: str, digest: str, data: bytes | Path, *, only_new: bool = False) -> bool:
        """Write an object; ``False`` when it is there and only a new one was to be written.

        Raises:
            ObjectGarbled: the bytes do not have this digest; nothing was stored.
            ObjectStoreFull: no space is left.
        """
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if only_new else {}
        body = data.open("rb") if isinstance(data, Path) else data
        try:
            self._client.put_object(
                Bucket=self.settings.bucket, Key=self._key(key), Body=body, ChecksumSHA256=_checksum(digest),
                **condition,
            )  # fmt: skip
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _EXISTS and only_new:
                return False
            if _code(error) in _GARBLED:
                raise ObjectGarbled(f"{self.place}{key}: the bytes sent do not have digest {digest[:16]}…") from error
            self._fail(f"write {key}", error)
        finally:
            if not isinstance(body, bytes):
                body.close()
        return True

    def get(self, key: str) -> bytes:
        """The bytes of an object, as they are stored; raises ``ObjectMissing``."""
        return b"".join(self.pieces(key, 1 << 20))

    def pieces(self, key: str, size: int) -> Iterator[bytes]:
        """The bytes of an object in pieces of ``size``, as they are stored; raises ``ObjectMissing``."""
        try:
            body = self._client.get_object(Bucket=self.settings.bucket, Key=self._key(key))["Body"]
            with body:
                yield from body.iter_chunks(size)
        except (ClientError, BotoCoreError, OSError) as error:
            if _code(error) in _MISSING:
                raise ObjectMissing(f"{self.place}{key}: there is no such object") from error
            self._fail(f"read {key}", error)

    def info(self, key: str) -> ObjectInfo | None:
        """What is stored under this key, unread."""
        try:
            found = self._client.head_object(Bucket=self.settings.bucket, Key=self._key(key))
        except (ClientError, BotoCoreError) as error:
            if _code(error) in _MISSING:
                return None
            self._fail(f"look for {key}", error)
        return ObjectInfo(key, found["ContentLength"], found["LastModified"].timestamp())

    def list(self, start: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with ``start``, sorted by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.settings.bucket, Prefix=self._key(start)
        )
        with self._named(f"list {start}"):
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self.settings.prefix)
                    yield ObjectInfo(key, item["Size"], item["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is removed already."""
        with self._named(f"delete {key}"):
            self._client.delete_object(Bucket=self.settings.bucket, Key=self._key(key))

    def address_to_read(self, key: str, seconds: int) -> str:
        """An address from which anybody can read this object, and nothing else, for so long."""
        return self._signed("get_object", seconds, Key=self._key(key))

    def address_to_write(self, key: str, digest: str, seconds: int) -> tuple[str, dict[str, str]]:
        """An address to which anybody can write these bytes as a new object for so long; with headers to send.

        The digest is part of what is signed: the store refuses other bytes.
        """
        headers = {"x-amz-checksum-sha256": _checksum(digest), "If-None-Match": "*"}
        signed = self._signed(
            "put_object", seconds, Key=self._key(key), ChecksumSHA256=_checksum(digest), IfNoneMatch="*"
        )
        return signed, headers

    def probe(self) -> None:
        """Make sure the store keeps what is relied on.

        Raises:
            ObjectStoreUnavailable: it can't be reached, refuses the credentials, or there is no such bucket.
            UnsafeObjectStore: it writes over what is there in spite of a condition, or stores what has another digest.
        """
        key, sent = f"probe/{secrets.token_hex(8)}", hashlib.sha256(b"esper").hexdigest()
        if not self.put(key, sent, b"esper", only_new=True):
            raise UnsafeObjectStore(f"{self.place}: says that a new object exists already; use another store")
        try:
            if self.put(key, sent, b"esper", only_new=True):
                raise UnsafeObjectStore(
                    f"{self.place}: does not honour conditional puts (If-None-Match: *); two writers could overwrite "
                    "each other. Use a store, or a version of it, that does"
                )
            if self._takes_garbled(key, sent):
                raise UnsafeObjectStore(
                    f"{self.place}: stores bytes that do not have their checksum; use another store"
                )
        finally:
            self.delete(key)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def _takes_garbled(self, key: str, digest: str) -> bool:
        try:
            self.put(key, digest, b"other")
        except ObjectGarbled:
            return False
        return True

    def _signed(self, method: str, seconds: int, **parameters: Any) -> str:
        return self._client.generate_presigned_url(
            method, Params={"Bucket": self.settings.bucket, **parameters}, ExpiresIn=seconds
        )

    def _key(self, key: str) -> str:
        return self.settings.prefix + key

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            self._fail(doing, error)

    def _fail(self, doing: str, error: Exception) -> NoReturn:
        code = _code(error)
        if code in _FULL:
            raise ObjectStoreFull(f"{self.place}: no space left to {doing}; free some, nothing was lost") from error
        if code in _REFUSED:
            raise ObjectStoreUnavailable(
                f"{self.place}: refuses to {doing} ({code}); check the credentials and their rights"
            ) from error
        if code == "NoSuchBucket":
            raise ObjectStoreUnavailable(
                f"{self.place}: there is no such bucket; create it, or name another one"
            ) from error
        # The driver's own words may quote the request, but never its credentials.
        what = code or f"{type(error).__name__}: {error}"
        raise ObjectStoreUnavailable(f"{self.place}: can't {doing} ({what}); is the store up?") from error


def _code(error: Exception) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _checksum(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode("ascii")
