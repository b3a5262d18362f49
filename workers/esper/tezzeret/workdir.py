"""Where builds happen: a private directory whose path depends on the artifact alone, so that digests repeat.

The compiler writes the path of its sources into what it makes. The same artifact is therefore always built at the same
path, one build at a time, in a directory nobody else can write to.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esper.errors import BadInput

__all__ = ["build_directory", "build_root"]


def build_root() -> Path:
    """Return the root of all builds: ``$ESPER_BUILD_DIR``, else one in ``/tmp`` for this user.

    Raises:
        BadInput: it can't be made, or another user could write to it.
    """
    path = Path(os.environ.get("ESPER_BUILD_DIR") or f"/tmp/esper-build-{os.geteuid()}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise BadInput(f"{path}: builds need this directory ({error.strerror}); set ESPER_BUILD_DIR") from error
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise BadInput(f"{path}: must be a directory only you can write to; remove it or set ESPER_BUILD_DIR")
    return path


@contextmanager
def build_directory(artifact_id: str) -> Iterator[Path]:
    """Hold an empty directory for building ``artifact_id``; waits while another process builds the same one."""
    root = build_root()
    shared = root / "shared"
    shared.mkdir(mode=0o700, exist_ok=True)
    with open(root / f"{artifact_id}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workdir = root / artifact_id
        shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(mode=0o700)
        # Inductor keeps precompiled headers below the temporary directory: shared, or each build makes its own.
        before = tempfile.tempdir
        tempfile.tempdir = os.environ["TMPDIR"] = str(shared)
        try:
            yield workdir
        finally:
            tempfile.tempdir = before
            shutil.rmtree(workdir, ignore_errors=True)
