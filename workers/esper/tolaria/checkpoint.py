"""Checkpoints: one directory each, whole or not there.

A checkpoint is written into a hidden directory beside its final name, every file and the directory are synced, and
then it is renamed: a kill at any moment leaves either the old newest checkpoint or the new one. ``index.json`` holds
the SHA-256 of the other files, so a damaged checkpoint is told from a good one before anything of it is used.
Tensors are safetensors, the rest is JSON; nothing in a checkpoint can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.errors import CheckpointMismatch
from esper.output.files import disk_errors, sync_directory

FORMAT = 1
_TENSORS, _STATE, _INDEX = "tensors.safetensors", "state.json", "index.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: tensors by name and the JSON state."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run in one directory, newest last.

    Args:
        root: the directory; made when the first checkpoint is written.
        keep: how many of the newest to keep.
    """

    def __init__(self, root: Path, keep: int = 3) -> None:
        self.root, self.keep = root, max(1, keep)

    def names(self) -> list[str]:
        """Names of the finished checkpoints, oldest first."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and entry.name.startswith("step-"))

    def write(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
        """Write a checkpoint; returns its name.

        Raises:
            StorageFull: no space; the partial checkpoint is removed and the older ones are untouched.
            OutputDirectoryError: the directory can't be written.
        """
        name = f"step-{step:012d}"
        partial, final = self.root / f".partial-{name}", self.root / name
        files = {
            _TENSORS: save({key: value.contiguous() for key, value in tensors.items()}, {"format": "pt"}),
            _STATE: json.dumps(state, sort_keys=True, allow_nan=False).encode(),
        }
        index = {
            "format": FORMAT,
            "step": step,
            "files": {
                key: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for key, data in files.items()
            },
        }
        files[_INDEX] = json.dumps(index, sort_keys=True).encode()
        with disk_errors(final, "writing the checkpoint"):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                for key, data in files.items():
                    _write_synced(partial / key, data)
                sync_directory(partial)
                if final.exists():  # the same step again after a rollback: the new one replaces it
                    self._discard(name)
                os.rename(partial, final)
                sync_directory(self.root)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        for old in self.names()[: -self.keep]:
            self._discard(old)
        return name

    def read(self, name: str) -> Checkpoint:
        """Read and verify one checkpoint.

        Raises:
            CheckpointMismatch: a file is missing, damaged or of an unknown format.
        """
        folder = self.root / name
        try:
            index = json.loads((folder / _INDEX).read_bytes())
            if index["format"] != FORMAT:
                raise CheckpointMismatch(
                    f"checkpoint {folder} has format {index['format']}; this version reads {FORMAT}"
                )
            if name != f"step-{index['step']:012d}":
                raise CheckpointMismatch(f"checkpoint {folder} says it is of step {index['step']}")
            data = {}
            for key, entry in index["files"].items():
                data[key] = (folder / key).read_bytes()
                if hashlib.sha256(data[key]).hexdigest() != entry["sha256"]:
                    raise CheckpointMismatch(f"checkpoint {folder}: {key} does not have the digest that was recorded")
            return Checkpoint(name, load(data[_TENSORS]), json.loads(data[_STATE]))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise CheckpointMismatch(f"checkpoint {folder} is damaged ({type(error).__name__}: {error})") from error

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that verifies, and what was wrong with newer ones."""
        problems: list[str] = []
        for name in reversed(self.names()):
            try:
                return self.read(name), problems
            except CheckpointMismatch as error:
                problems.append(str(error))
        return None, problems

    def drop_after(self, step: int) -> None:
        """Remove checkpoints later than a step (after a rollback they are of a future that did not happen)."""
        for name in self.names():
            if int(name.removeprefix("step-")) > step:
                self._discard(name)

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
