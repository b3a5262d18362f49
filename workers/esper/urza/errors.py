"""What can be wrong with the library: one class per cause, all of them ``LibraryError``.

LibraryError (esper.errors, exit code 3)
├── LibraryUnavailable     the database or the blob store can't be opened, read or written
│   ├── LibraryBusy            another process held the write lock for too long
│   └── LibraryFull            no space left (also ``StorageFull``)
├── SchemaTooNew           written by a newer Esper than this one
├── SchemaTooOld           not brought up to date yet (a service does not do that by itself)
├── BlobMissing            a digest the store does not hold
├── BlobCorrupt            stored bytes that no longer have their digest
├── UnknownArtifact, UnknownBlueprint
├── NotFound               the service has no such path
├── StateConflict          a transition the artifact's state does not allow
│   └── ContentConflict        other bytes under an id that has some already
├── AccessDenied           the service does not know the caller, or does not let it do that
├── TooManyRequests        the service asks to slow down
└── InvalidEntry           an id, name, tag, path or number that may not enter the library
"""

from __future__ import annotations

from esper.errors import LibraryError, StorageFull

__all__ = [
    "AccessDenied",
    "BlobCorrupt",
    "BlobMissing",
    "ContentConflict",
    "InvalidEntry",
    "LibraryBusy",
    "LibraryError",
    "LibraryFull",
    "LibraryUnavailable",
    "NotFound",
    "SchemaTooNew",
    "SchemaTooOld",
    "StateConflict",
    "TooManyRequests",
    "UnknownArtifact",
    "UnknownBlueprint",
]


class LibraryUnavailable(LibraryError):
    """The database or the blob store can't be reached, read or written; trying later may help."""


class LibraryBusy(LibraryUnavailable):
    """Another process kept the write lock longer than this one was ready to wait."""


class LibraryFull(LibraryUnavailable, StorageFull):
    """No space is left where the library lives; what was there before is untouched."""


class SchemaTooNew(LibraryError):
    """The database was written by a newer version; this one must not touch it."""


class SchemaTooOld(LibraryError):
    """The database is of an older version and was not brought up to date."""


class BlobMissing(LibraryError):
    """The blob store holds nothing under this digest."""


class BlobCorrupt(LibraryError):
    """Stored bytes do not have their digest any more; they were not used."""


class UnknownArtifact(LibraryError):
    """No artifact has this id."""


class UnknownBlueprint(LibraryError):
    """No blueprint has this name or digest."""


class NotFound(LibraryError):
    """The service has no such path; it may be of another version, or something else."""


class StateConflict(LibraryError):
    """The artifact is not in a state from which this may be done."""


class ContentConflict(StateConflict):
    """The id has other bytes already; what it names never changes."""


class AccessDenied(LibraryError):
    """The caller's token is missing, not valid, or lacks the role for this."""


class TooManyRequests(LibraryUnavailable):
    """The service has answered this caller often enough for now; trying later helps."""


class InvalidEntry(LibraryError):
    """Something offered to the library is malformed or out of range; nothing was stored."""
