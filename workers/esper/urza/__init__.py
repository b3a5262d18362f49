"""Urza: the library of blueprints and kernels. The only package that knows SQL.

What opens a database is imported when it is first used: those who reach the library through its service have no need of
SQLAlchemy or of a store's client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.urza.blobs import (
    BlobInfo,
    BlobStore,
    DirectoryBlobs,
)
from esper.urza.errors import (
    AccessDenied,
    BlobCorrupt,
    BlobMissing,
    ContentConflict,
    InvalidEntry,
    LibraryBusy,
    LibraryFull,
    LibraryUnavailable,
    SchemaTooNew,
    SchemaTooOld,
    StateConflict,
    TooManyRequests,
    UnknownArtifact,
    UnknownBlueprint,
)
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    Count,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Lease,
    Library,
    Lineage,
    Report,
    State,
    Swept,
)

if TYPE_CHECKING:
    from esper.urza.client import RemoteLibrary
    from esper.urza.s3 import S3Blobs
    from esper.urza.sql import SqlLibrary

_HOMES = {
    "RemoteLibrary": "esper.urza.client",
    "S3Blobs": "esper.urza.s3",
    "SqlLibrary": "esper.urza.sql",
}

__all__ = [
    "AccessDenied",
    "ArtifactFile",
    "BlobCorrupt",
    "BlobInfo",
    "BlobMissing",
    "BlobStore",
    "BlueprintRecord",
    "Change",
    "ContentConflict",
    "Count",
    "DirectoryBlobs",
    "FieldReport",
    "InvalidEntry",
    "KernelQuery",
    "KernelRecord",
    "Lease",
    "Library",
    "LibraryBusy",
    "LibraryFull",
    "LibraryUnavailable",
    "Lineage",
    "RemoteLibrary",
    "Report",
    "S3Blobs",
    "SchemaTooNew",
    "SchemaTooOld",
    "SqlLibrary",
    "State",
    "StateConflict",
    "Swept",
    "TooManyRequests",
    "UnknownArtifact",
    "UnknownBlueprint",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'esper.urza' has no attribute {name!r}; it has: {', '.join(__all__)}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
