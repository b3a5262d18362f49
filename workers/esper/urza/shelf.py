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
from typing import Protocol

from esper.urza.blobs import CHUNK
from esper.urza.errors import InvalidEntry, LibraryFull, LibraryUnavailable
from esper.urza.library import ArtifactFile
from leyline.errors import describe

MANIFEST = "manifest.json"
REPORT = "report.json"
#: Directories every artifact has, even when there is nothing in them.
FOLDERS = ("blobs", "signatures")
#: What may still be added when the artifact was built already: verdicts, never content.
LATER = ("signatures/", REPORT)
MAX_FILES = 128
MAX_DEPTH = 3
MAX_FILE_BYTES = 1 << 30
MAX_IN_MEMORY = 4 << 20
"""Larger files are handled piece by piece."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}", re.ASCII)


class Source(Protocol):
    """Where an artifact's bytes come from: a blob store, or a service that has one."""

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See ``BlobStore.chunks``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file of an artifact with its bytes, or where they are when they are many."""

    file: ArtifactFile
    data: bytes | Path


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
    if not isinstance(manifest, bytes):
        raise InvalidEntry(
            f"{directory}: holds no {MANIFEST} of at most {MAX_IN_MEMORY} bytes; hand in a whole artifact"
        )
    check_manifest(manifest, str(directory), artifact_id)
    return loaded


def check_manifest(manifest: bytes, where: str, artifact_id: str) -> None:
    """Raise ``InvalidEntry`` unless this is the manifest of that artifact."""
    try:
        named = json.loads(manifest)["id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidEntry(f"{where}: its {MANIFEST} names no artifact ({type(error).__name__}: {error})") from error
    if named != artifact_id:
        raise InvalidEntry(f"{where}: is the artifact {describe(named)}, not {artifact_id!r}")


def check_names(files: Sequence[ArtifactFile], artifact_id: str) -> None:
    """Raise ``InvalidEntry`` unless these could be the files of an artifact's directory."""
    if len(files) > MAX_FILES:
        raise InvalidEntry(f"{artifact_id}: {len(files)} files, at most {MAX_FILES} allowed")
    names = {file.name for file in files}
    seen: set[str] = set()
    for file in files:
        parts = file.name.split("/")
        if len(parts) > MAX_DEPTH or any(_PART.fullmatch(part) is None or ".." in part for part in parts):
            raise InvalidEntry(f"{artifact_id}: {describe(file.name)} is not a name an artifact's file may have")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if file.name in seen:
            raise InvalidEntry(f"{artifact_id}: {describe(file.name)} is there twice")
        if above & names:
            raise InvalidEntry(f"{artifact_id}: {describe(file.name)} lies in a file")
        seen.add(file.name)
        if not 0 <= file.size <= MAX_FILE_BYTES:
            raise InvalidEntry(f"{artifact_id}: {file.name!r} has {file.size} bytes, at most {MAX_FILE_BYTES} allowed")
    if MANIFEST not in seen:
        raise InvalidEntry(f"{artifact_id}: has no {MANIFEST}; hand in a whole artifact")


def check_unchanged(before: Sequence[ArtifactFile], after: Sequence[ArtifactFile], artifact_id: str) -> None:
    """Raise ``InvalidEntry`` when anything but signatures and report differs."""
    changed = differing(before, after)
    if changed:
        raise InvalidEntry(f"{artifact_id}: {', '.join(changed[:3])} changed after it was built; build it again")


def differing(before: Sequence[ArtifactFile], after: Sequence[ArtifactFile]) -> list[str]:
    """Names of the files that differ, but for signatures and report."""
    old = {file.name: file.digest for file in before if not file.name.startswith(LATER)}
    new = {file.name: file.digest for file in after if not file.name.startswith(LATER)}
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def check_report(files: Sequence[ArtifactFile], digest: str, artifact_id: str) -> None:
    """Raise ``InvalidEntry`` when the report inside the artifact is another one than the report handed in."""
    inside = next((file.digest for file in files if file.name == REPORT), digest)
    if inside != digest:
        raise InvalidEntry(
            f"{artifact_id}: its {REPORT} has the digest {inside[:16]}…, the report handed in {digest[:16]}…; "
            "sign and store one and the same"
        )


def write_directory(files: Sequence[ArtifactFile], blobs: Source, into: Path, artifact_id: str) -> Path:
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
                with path.open("wb") as out:
                    for piece in blobs.chunks(file.digest):
                        out.write(piece)
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
        data = stream.read(MAX_IN_MEMORY) if status.st_size <= MAX_IN_MEMORY else b""
        if len(data) == status.st_size:
            return Loaded(ArtifactFile(name, hashlib.sha256(data).hexdigest(), len(data)), data)
        # Read again when it is stored, and refused if it is another one by then.
        digest, size = hashlib.sha256(data), len(data)
        while piece := stream.read(CHUNK):
            digest.update(piece)
            size += len(piece)
    return Loaded(ArtifactFile(name, digest.hexdigest(), size), directory / name)


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
