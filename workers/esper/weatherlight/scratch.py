"""A directory for work in progress that is this process's alone, and goes when the process does, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from esper.urza.errors import LibraryUnavailable

LOCK = ".lock"


class Scratch:
    """``<root>/<random>``, held by a lock; what processes that died have left below ``root`` is removed first.

    Raises:
        LibraryUnavailable: ``root`` can't be written.
    """

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Only one process at a time looks around or makes its own: nobody's is seen before it is locked.
            with open(root / LOCK, "ab") as door:
                fcntl.flock(door, fcntl.LOCK_EX)
                self._remove_orphans(root)
                self.path = Path(tempfile.mkdtemp(dir=root))
                self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise LibraryUnavailable(f"{root}: can't be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Remove the directory; closing twice is harmless."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    @staticmethod
    def _remove_orphans(root: Path) -> None:
        for path in root.iterdir():
            try:
                handle = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # the door itself, or nothing of ours
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                continue  # its process lives
            finally:
                os.close(handle)
