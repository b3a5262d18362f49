"""Mark and sweep: which files nobody needs any more, and taking them away without taking one that somebody needs.

Marked is every blob a row names. A row stays as long as its artifact can be offered, built or measured, a run leases
it, or its end is younger than the grace period; a blob without a row stays while it is younger than that.

Whoever gives blobs a row looks for them once more while it holds the blobs' lock shared, and the collector removes a
batch only while it holds the lock alone. So a blob is either gone before its row is written, which the writer sees and
puts it again, or its row is there before the collector looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

from sqlalchemy import Connection, delete, select
from sqlalchemy.orm import Session

from esper.urza import leasing
from esper.urza.blobs import BlobInfo, BlobStore
from esper.urza.library import State, Swept
from esper.urza.models import ArtifactRow, FileRow

ENDED = (State.REJECTED.value, State.RETIRED.value)
Alone = Callable[[], AbstractContextManager[Session]]
Reading = Callable[[], AbstractContextManager[Connection]]
BATCH = 64
"""Blobs or artifacts handled while writers wait."""


def sweep(alone: Alone, reading: Reading, blobs: BlobStore, grace_seconds: float, now: int) -> Swept:
    """See ``Library.sweep``.

    ``alone`` begins a transaction while which nobody names a blob, ``reading`` a snapshot; ``now`` is in microseconds,
    by the clock that leases and changes are told by.
    """
    artifacts = 0
    while True:
        with alone() as session:
            forgotten = _forget(session, now - round(grace_seconds * 1e6), now)
        artifacts += forgotten
        if forgotten < BATCH:
            break
    removed = size = 0
    oldest = time.time() - grace_seconds
    old = (blob for blob in blobs.list() if blob.modified < oldest)
    for batch in _batches(old):
        count, total = _remove(alone, reading, blobs, batch, oldest)
        removed, size = removed + count, size + total
    return Swept(removed, size, artifacts)


def _forget(session: Session, before: int, now: int) -> int:
    """Drop the file rows of a batch of ended artifacts; returns how many artifacts that were."""
    has_files = select(FileRow.name).where(FileRow.artifact_id == ArtifactRow.artifact_id).exists()
    ended = (
        select(ArtifactRow.artifact_id)
        .where(
            ArtifactRow.state.in_(ENDED),
            ArtifactRow.changed_at < before,
            has_files,
            ~leasing.holds(ArtifactRow.artifact_id, now),
        )
        .limit(BATCH)
        .with_for_update()
    )
    found = list(session.execute(ended).scalars())
    if found:
        session.execute(delete(FileRow).where(FileRow.artifact_id.in_(found)))
    return len(found)


def _remove(
    alone: Alone, reading: Reading, blobs: BlobStore, batch: Sequence[BlobInfo], oldest: float
) -> tuple[int, int]:
    digests = [blob.digest for blob in batch]
    with reading() as connection:
        named = set(connection.execute(select(FileRow.digest).where(FileRow.digest.in_(digests))).scalars())
    unnamed = [digest for digest in digests if digest not in named]
    if not unnamed:
        return 0, 0
    removed = size = 0
    with alone() as session:
        named = set(session.execute(select(FileRow.digest).where(FileRow.digest.in_(unnamed))).scalars())
        for digest in unnamed:
            # Looked at again: it may have been put once more since it was listed.
            known = blobs.info(digest) if digest not in named else None
            if known is not None and known.modified < oldest and blobs.delete(digest):
                removed, size = removed + 1, size + known.size
    return removed, size


def _batches(found: Iterator[BlobInfo]) -> Iterator[list[BlobInfo]]:
    while batch := list(islice(found, BATCH)):
        yield batch
