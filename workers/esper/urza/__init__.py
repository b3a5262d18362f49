"""Urza: the library of blueprints and kernels. The only package that knows SQL."""

from esper.urza.blobs import BlobInfo, BlobStore, DirectoryBlobs
from esper.urza.errors import (
    BlobCorrupt,
    BlobMissing,
    InvalidEntry,
    LibraryBusy,
    LibraryFull,
    LibraryUnavailable,
    SchemaTooNew,
    StateConflict,
    UnknownArtifact,
    UnknownBlueprint,
)
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Library,
    Lineage,
    Report,
    State,
    Swept,
)
from esper.urza.sql import SqlLibrary

__all__ = [
    "ArtifactFile",
    "BlobCorrupt",
    "BlobInfo",
    "BlobMissing",
    "BlobStore",
    "BlueprintRecord",
    "Change",
    "DirectoryBlobs",
    "FieldReport",
    "InvalidEntry",
    "KernelQuery",
    "KernelRecord",
    "Library",
    "LibraryBusy",
    "LibraryFull",
    "LibraryUnavailable",
    "Lineage",
    "Report",
    "SchemaTooNew",
    "SqlLibrary",
    "State",
    "StateConflict",
    "Swept",
    "UnknownArtifact",
    "UnknownBlueprint",
]
