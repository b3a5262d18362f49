"""Where a run's checkpoints and journal are kept: a directory, or a prefix of an S3 bucket."""

from esper.tolaria.store.bucket import BucketStore
from esper.tolaria.store.committer import Committer
from esper.tolaria.store.directory import DirectoryStore
from esper.tolaria.store.journal import Journal
from esper.tolaria.store.port import Checkpoint, CheckpointStore, Commit, pack

__all__ = [
    "BucketStore",
    "Checkpoint",
    "CheckpointStore",
    "Commit",
    "Committer",
    "DirectoryStore",
    "Journal",
    "pack",
]
