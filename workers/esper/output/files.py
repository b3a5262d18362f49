"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from esper.errors import OutputDirectoryError, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn the operating system's refusal into an error that names the file and says what to do.

    Raises:
        StorageFull: no space or quota is left.
        OutputDirectoryError: any other refusal (permissions, a directory in the way, a read-only disk).
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise StorageFull(f"{doing} {path}: {reason}; free some space and run again with --resume") from error
        raise OutputDirectoryError(f"{doing} {path}: {reason}; check that the path exists and is yours") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to the disk, then rename it over ``path``.

    Raises:
        StorageFull, OutputDirectoryError: see :func:`disk_errors`; what was at ``path`` before is untouched.
    """
    with disk_errors(path, "writing"):
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o666 & ~_umask())
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # mkstemp gives 0600, but a report is for everyone the directory is for. The mask can only be read by setting it,
    # which is not safe beside other threads, so it is read once at import.
    return _UMASK


_UMASK = os.umask(0o022)
os.umask(_UMASK)
