"""The output directory of a run: claimed by one process, never overwritten by accident."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

import yaml

from esper.errors import OutputDirectoryError
from esper.output.files import disk_errors, write_atomic
from leyline.resources import TrainingRun

MANIFEST = "manifest.yaml"
LOCK = ".lock"
MARKERS = (MANIFEST, "events.jsonl", "journal.jsonl", "checkpoints", "summary.json")


class OutputDirectory:
    """A run's directory, locked while the run works.

    Args:
        path: created if it does not exist.
        resume: continue what is there; without it a directory that holds a run is refused.
        elsewhere: the run's state is kept somewhere else, so that the directory may be empty on a resume.

    Raises:
        OutputDirectoryError: not writable, in use by another process, or it holds a run and ``resume`` was not asked.
    """

    def __init__(self, path: Path, resume: bool, elsewhere: bool = False) -> None:
        self.path = path
        self._made = not path.exists()
        with disk_errors(path, "making the output directory"):
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = open(path / LOCK, "w")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise OutputDirectoryError(
                f"{path} is in use by another esper process; choose another directory"
            ) from error
        found = [name for name in MARKERS if (path / name).exists()]
        if found and not resume:
            self.close()
            raise OutputDirectoryError(
                f"{path} already holds a run ({found[0]}); go on with --resume, or choose another directory with -o"
            )
        if resume and not elsewhere and MANIFEST not in found:
            self.abandon()
            self.close()
            raise OutputDirectoryError(f"{path} holds no run to resume; leave --resume out to start one")

    def write_manifest(self, run: TrainingRun) -> None:
        """Keep the manifest as it was understood, every default spelled out."""
        text = yaml.safe_dump(run.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)
        write_atomic(self.path / MANIFEST, text.encode())

    def abandon(self) -> None:
        """Nothing came of it: leave no empty directory behind that was not there before."""
        if self._made and [entry.name for entry in self.path.iterdir()] == [LOCK]:
            (self.path / LOCK).unlink()
            self.path.rmdir()

    def close(self) -> None:
        """Let another process have the directory."""
        self._lock.close()
