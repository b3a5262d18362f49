"""Objects in an S3 bucket: what the library's blobs and a run's checkpoints share. Nothing else imports boto3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.objects.errors import (
    ObjectGarbled,
    ObjectMissing,
    ObjectStoreError,
    ObjectStoreFull,
    ObjectStoreUnavailable,
    UnsafeObjectStore,
)
from esper.objects.settings import S3Settings, place_of

if TYPE_CHECKING:
    from esper.objects.s3 import ObjectInfo, ObjectStore

_LAZY = {"ObjectInfo": "esper.objects.s3", "ObjectStore": "esper.objects.s3"}

__all__ = [
    "ObjectGarbled",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "ObjectStoreError",
    "ObjectStoreFull",
    "ObjectStoreUnavailable",
    "S3Settings",
    "UnsafeObjectStore",
    "place_of",
]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
