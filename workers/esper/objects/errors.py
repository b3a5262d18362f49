"""What can be wrong with an object store.

ObjectStoreError (esper.errors, exit code 3)
├── ObjectStoreUnavailable   it can't be reached, refuses the credentials, or has no such bucket; trying later may help
│   └── ObjectStoreFull      no space or quota left (also ``StorageFull``)
├── UnsafeObjectStore        it ignores what is relied on: conditional puts, or checksums
├── ObjectMissing            there is no such object
└── ObjectGarbled            what was sent did not have the digest it was announced with; nothing was stored
"""

from __future__ import annotations

from esper.errors import ObjectStoreError, StorageFull

__all__ = [
    "ObjectGarbled",
    "ObjectMissing",
    "ObjectStoreError",
    "ObjectStoreFull",
    "ObjectStoreUnavailable",
    "UnsafeObjectStore",
]


class ObjectStoreUnavailable(ObjectStoreError):
    """The store can't be reached, refuses the credentials, or has no such bucket."""


class ObjectStoreFull(ObjectStoreUnavailable, StorageFull):
    """No space is left in the store; what was there before is untouched."""


class UnsafeObjectStore(ObjectStoreError):
    """The store writes over what is there in spite of a condition, or stores what has another digest."""


class ObjectMissing(ObjectStoreError):
    """There is no object under this key."""


class ObjectGarbled(ObjectStoreError):
    """The bytes do not have the digest they were announced with; nothing was stored."""
