"""Between an artifact's directory and the blobs it is kept as: read with suspicion, written back verified."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.urza.blobs import BlobStore
from esper.urza.errors import InvalidEntry, LibraryFull, LibraryUnavailable
from esper.urza.library import ArtifactFile

MANIFEST = "manifest.json"
REPORT = "report.json"
#: Directories every artifact has, even when there is nothing in them.
FOLDERS = ("blobs", "signatures")
#: What may still be added when the artifact was built already: verdicts, never content.
LATER = ("signatures/", REPORT)
MAX_FILES = 128
MAX_DEPTH = 3
MAX_FILE_BYTES = 1 << 30

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file of an artifact with its bytes."""

    file: ArtifactFile
    data: bytes


def read_directory(directory: Path, artifact_id: str) -> list[Loaded]:
    """Every file of an artifact, sorted by name.

    Raises:
        InvalidEntry: links, devices, odd names, too many or too large files, or the manifest of another artifact.
        LibraryUnavailable: the directory can't be read.
    """
    try:
        loaded = [_load(directory, name) for name in sorted(_names(directory, "", 0))]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidEntry(f"{directory}: there is no artifact") from error
    except OSError as error:
        raise LibraryUnavailable(f"{directory}: can't be read: {error.strerror or error}") from error
    manifest = next((each.data for each in loaded if each.file.name == MANIFEST), None)
    if manifest is None:
        raise InvalidEntry(f"{directory}: holds no {MANIFEST}; hand in a whole artifact")
    try:
        named = json.loads(manifest)["id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidEntry(f"{directory}: its {MANIFEST} names no artifact ({error})") from error
    if named != artifact_id:
        raise InvalidEntry(f"{directory}: is the artifact {str(named)[:96]!r}, not {artifact_id!r}")
    return loaded


def check_unchanged(before: Sequence[ArtifactFile], after: Sequence[ArtifactFile], artifact_id: str) -> None:
    """Raise ``InvalidEntry`` when anything but signatures and report differs."""
    old = {file.name: file.digest for file in before if not file.name.startswith(LATER)}
    new = {file.name: file.digest for file in after if not file.name.startswith(LATER)}
    if old != new:
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        raise InvalidEntry(f"{artifact_id}: {', '.join(changed[:3])} changed after it was built; build it again")


def check_report(loaded: Sequence[Loaded], digest: str, artifact_id: str) -> None:
    """Raise ``InvalidEntry`` when the report inside the artifact is another one than the report handed in."""
    inside = next((each.file.digest for each in loaded if each.file.name == REPORT), digest)
    if inside != digest:
        raise InvalidEntry(
            f"{artifact_id}: its {REPORT} has the digest {inside[:16]}…, the report handed in {digest[:16]}…; "
            "sign and store one and the same"
        )


def write_directory(files: Sequence[ArtifactFile], blobs: BlobStore, into: Path, artifact_id: str) -> Path:
    """Copy an artifact to ``<into>/<artifact id>``; it appears whole, and a complete one that is there stays.

    Raises:
        BlobMissing, BlobCorrupt: the store has lost something.
        LibraryFull, LibraryUnavailable: ``into`` can't be written.
    """
    target = into / artifact_id
    try:
        if _complete(target, files):
            return target
        into.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=into, prefix=f".{artifact_id[:16]}.", suffix=".tmp"))
        try:
            for folder in FOLDERS:
                (staging / folder).mkdir()
            for file in files:
                path = staging / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(blobs.get(file.digest))
            staging.chmod(0o755)
            _install(staging, target, files)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise LibraryFull(f"{into}: no space left for artifact {artifact_id}; free some") from error
        raise LibraryUnavailable(f"{into}: can't write artifact {artifact_id}: {error.strerror or error}") from error
    return target


def _names(directory: Path, prefix: str, depth: int) -> Iterator[str]:
    count = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            name = prefix + entry.name
            count += 1
            if count > MAX_FILES:
                raise InvalidEntry(f"{directory}: more than {MAX_FILES} files; not an artifact")
            if _PART.fullmatch(entry.name) is None or ".." in entry.name:
                raise InvalidEntry(f"{directory}: {name[:96]!r} is not a name an artifact's file may have")
            if entry.is_symlink():
                raise InvalidEntry(f"{directory}: {name!r} is a link; artifacts hold plain files only")
            if entry.is_dir(follow_symlinks=False):
                if depth + 1 >= MAX_DEPTH:
                    raise InvalidEntry(f"{directory}: {name!r} is nested too deeply")
                yield from _names(Path(entry.path), f"{name}/", depth + 1)
            else:
                yield name


def _load(directory: Path, name: str) -> Loaded:
    # Not waiting for a pipe, not following a link that was put there since the directory was listed.
    handle = os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidEntry(f"{directory}: {name!r} is not a plain file")
        if status.st_size > MAX_FILE_BYTES:
            raise InvalidEntry(f"{directory}: {name!r} has {status.st_size} bytes, at most {MAX_FILE_BYTES} allowed")
        data = stream.read(MAX_FILE_BYTES + 1)
    return Loaded(ArtifactFile(name, hashlib.sha256(data).hexdigest(), len(data)), data)


def _complete(target: Path, files: Sequence[ArtifactFile]) -> bool:
    """Whether ``target`` holds exactly these files with these bytes."""
    if target.is_symlink() or not target.is_dir():
        return False
    try:
        names = sorted(_names(target, "", 0))
        if names != sorted(file.name for file in files) or not all((target / folder).is_dir() for folder in FOLDERS):
            return False
        return all(_load(target, file.name).file.digest == file.digest for file in files)
    except (InvalidEntry, OSError):
        return False


def _install(staging: Path, target: Path, files: Sequence[ArtifactFile]) -> None:
    """Rename ``staging`` to ``target``, moving away what is in its place unless somebody just put the same there."""
    while True:
        try:
            os.rename(staging, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if _complete(target, files):
            return
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".old.", suffix=".tmp") as aside:
            try:
                os.rename(target, Path(aside) / "old")
            except FileNotFoundError:
                continue  # another fetch moved it first
