"""Buckets as places for checkpoints, and stores that are away for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import parts
import real_s3
from esper.errors import RunTaken
from esper.objects import ObjectStoreUnavailable, S3Settings
from esper.tolaria.store import Checkpoint, Commit, Journal


def settings_in(bucket: real_s3.Bucket, prefix: str = "run/") -> S3Settings:
    """A prefix of a bucket, without patience."""
    return S3Settings(
        bucket.name, prefix, bucket.endpoint, bucket.region, bucket.access_key, bucket.secret_key, attempts=1
    )  # fmt: skip


def environment(bucket: real_s3.Bucket, **more: str) -> dict[str, str]:
    """What a process is told about a bucket."""
    return {
        "ESPER_CHECKPOINTS_ENDPOINT": bucket.endpoint,
        "ESPER_CHECKPOINTS_ACCESS_KEY": bucket.access_key,
        "ESPER_CHECKPOINTS_SECRET_KEY": bucket.secret_key,
        "ESPER_CHECKPOINTS_ATTEMPTS": "1",
        **more,
    }


@contextlib.contextmanager
def own_bucket() -> Iterator[tuple[real_s3.Bucket, Path, dict[str, object]]]:
    """A bucket of a server that only this test uses, with the server's home and what starts it again."""
    try:
        real_s3.program()
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
    with parts.private("s3") as home:
        facts = real_s3.start(home)
        made = real_s3.Bucket(facts["endpoint"], "mine", facts["access_key"], facts["secret_key"])
        client = real_s3.client(made)
        client.create_bucket(Bucket="mine")
        client.close()
        yield made, home, facts


class Flaky:
    """A ``CheckpointStore`` in memory that fails as it is told."""

    place = "nowhere"

    def __init__(self) -> None:
        self.journal = Journal(Path("nowhere"))
        self.away = False
        self.taken = False
        self.tries = 0
        self.committed: list[int] = []
        self.left: list[str] = []

    def holds_run(self) -> bool:
        return bool(self.committed)

    def claim(self) -> None:
        return

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        return None, []

    def commit(self, commit: Commit) -> None:
        self._maybe_fail()
        self.committed.append(commit.number)

    def leave(self, name: str, path: Path) -> None:
        self._maybe_fail()
        self.left.append(name)

    def close(self) -> None:
        return

    def _maybe_fail(self) -> None:
        self.tries += 1
        if self.away:
            raise ObjectStoreUnavailable("nowhere: can't write; is the store up?")
        if self.taken:
            raise RunTaken("nowhere: another trainer owns this run")
