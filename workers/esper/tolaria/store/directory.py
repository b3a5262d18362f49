"""Checkpoints in a directory: one sub-directory each, whole or not there.

A checkpoint is written into a hidden directory beside its final name, every file and the directory are synced, and then
it is renamed. The journal's line is written before, so that no checkpoint is without its line; a line without its
checkpoint is dropped by a resume. ``owner`` names the trainer that claimed the run last.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

from esper.errors import CheckpointMismatch, RunTaken
from esper.output.files import disk_errors, sync_directory, write_atomic
from esper.tolaria.store.journal import JOURNAL, Journal
from esper.tolaria.store.port import Checkpoint, Commit, unpack

CHECKPOINTS = "checkpoints"
_INDEX, _OWNER = "index.json", "owner"


class DirectoryStore:
    """A ``CheckpointStore`` in the output directory.

    Args:
        out: the output directory; what is below it is made when it is needed.
        keep: how many of the newest checkpoints to keep.
    """

    def __init__(self, out: Path, keep: int = 3) -> None:
        self.root, self.keep = out / CHECKPOINTS, max(1, keep)
        self.place = str(self.root)
        self.journal = Journal(out / JOURNAL)
        self._token = secrets.token_hex(16)
        self._claimed = False

    def holds_run(self) -> bool:
        """See ``CheckpointStore``."""
        return bool(self.names()) or self.journal.path.exists()

    def claim(self) -> None:
        """See ``CheckpointStore``."""
        with disk_errors(self.root, "making"):
            self.root.mkdir(parents=True, exist_ok=True)
        write_atomic(self.root / _OWNER, self._token.encode())
        self._claimed = True

    def names(self) -> list[str]:
        """Names of the finished checkpoints, oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and entry.name.startswith("step-"))

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """See ``CheckpointStore``."""
        problems: list[str] = []
        for name in reversed(self.names()):
            try:
                found = self.read(name)
            except CheckpointMismatch as error:
                problems.append(str(error))
                continue
            self.journal.truncate_after(found.state["commit"])
            return found, problems
        return None, problems

    def read(self, name: str) -> Checkpoint:
        """Read and verify one checkpoint.

        Raises:
            CheckpointMismatch: a file is missing, damaged or of an unknown format.
        """
        folder = self.root / name
        try:
            index = json.loads((folder / _INDEX).read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointMismatch(f"checkpoint {folder} is damaged ({type(error).__name__}: {error})") from error
        return unpack(str(folder), name, index, lambda key: (folder / key).read_bytes())

    def commit(self, commit: Commit) -> None:
        """See ``CheckpointStore``."""
        if not self._claimed:
            self.claim()
        self._check_owner()
        self.journal.put(commit.entry)
        partial, final = self.root / f".partial-{commit.name}", self.root / commit.name
        files = {**commit.files, _INDEX: json.dumps(commit.index(), sort_keys=True).encode()}
        with disk_errors(final, "writing the checkpoint"):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                for key, data in files.items():
                    _write_synced(partial / key, data)
                sync_directory(partial)
                self._check_owner()
                if final.exists():  # the same step again, after a rollback or at the end: the new one replaces it
                    self._discard(commit.name)
                os.rename(partial, final)
                sync_directory(self.root)
            except (OSError, RunTaken):
                shutil.rmtree(partial, ignore_errors=True)
                raise
        for old in self.names()[: -self.keep]:
            self._discard(old)

    def leave(self, name: str, path: Path) -> None:
        """See ``CheckpointStore``: it lies in the output directory already."""

    def close(self) -> None:
        """See ``CheckpointStore``."""

    def _check_owner(self) -> None:
        with disk_errors(self.root / _OWNER, "reading"):
            owner = (self.root / _OWNER).read_text()
        if owner != self._token:
            raise RunTaken(f"{self.root}: another trainer owns this run; what this one did since is not part of it")

    def _discard(self, name: str) -> None:
        """Remove a checkpoint; a kill meanwhile leaves no half of it under its name."""
        gone = self.root / f".gone-{name}"
        shutil.rmtree(gone, ignore_errors=True)  # what an earlier kill has left
        os.rename(self.root / name, gone)
        shutil.rmtree(gone)


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
