"""Putting a finished directory in the place of another in one step."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.errors import OutputDirectoryError
from esper.output.files import disk_errors, sync_directory

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def replacing(target: Path, marker: str) -> Iterator[Path]:
    """Yield a new directory beside ``target``; when the block ends well it takes ``target``'s place.

    Whatever goes wrong, ``target`` is either what it was or the whole new directory. A directory that is there already
    is replaced only if it is empty or holds ``marker``.

    Raises:
        OutputDirectoryError: ``target`` holds something else, or can't be written.
        StorageFull: no space is left.
    """
    target = Path(os.path.abspath(target))
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputDirectoryError(f"{target} is not a directory; choose another path")
    if target.is_dir() and not (target / marker).exists() and any(target.iterdir()):
        raise OutputDirectoryError(
            f"{target} holds files but no {marker}: it is not a saved model, choose another path"
        )
    with disk_errors(target, "making"):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield fresh
        with disk_errors(target, "replacing"):
            os.chmod(fresh, 0o755)
            _sync_tree(fresh)
            if target.exists():
                exchange(fresh, target)
            else:
                os.rename(fresh, target)
            sync_directory(target.parent)
    finally:
        # After an exchange this is the old directory, after a failure the new one.
        shutil.rmtree(fresh, ignore_errors=True)


def exchange(first: Path, second: Path) -> None:
    """Swap two directories: in one step where the file system can, else by two renames, undone on failure.

    Raises:
        OSError: they could not be swapped; both are as they were.
    """
    code = _renameat2(os.fsencode(first), os.fsencode(second))
    if code == 0:
        return
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(first.name + ".old")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except OSError:
        os.rename(aside, second)
        raise
    os.rename(aside, first)


def _renameat2(first: bytes, second: bytes) -> int:
    """0, or the error number."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return errno.ENOSYS
    done = call(_AT_FDCWD, ctypes.c_char_p(first), _AT_FDCWD, ctypes.c_char_p(second), ctypes.c_uint(_RENAME_EXCHANGE))
    return 0 if done == 0 else ctypes.get_errno()


def _sync_tree(directory: Path) -> None:
    for path in directory.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_directory(directory)
