"""Where this user's processes keep what they could make again."""

from __future__ import annotations

import os
from pathlib import Path

from esper.errors import BadInput


def cache_directory(name: str) -> Path:
    """Return the private directory ``name`` below ``$ESPER_CACHE_DIR``, else below the user's cache; made if need be.

    Raises:
        BadInput: it can't be made, or another user could write to it.
    """
    home = os.environ.get("ESPER_CACHE_DIR")
    try:
        base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esper"
    except RuntimeError as error:  # a user without a name or a home
        raise BadInput(f"the cache of {name}: {error}; set ESPER_CACHE_DIR") from error
    path = base / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise BadInput(f"{path}: the cache of {name} can't be made ({error.strerror}); set ESPER_CACHE_DIR") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise BadInput(f"{path}: another user can write to the cache of {name}; chmod 700 it or set ESPER_CACHE_DIR")
    return path
