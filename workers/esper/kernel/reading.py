"""Read an artifact directory written by somebody else: look, measure and hash before anything is opened or trusted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from esper.kernel.artifact import BLOBS, MANIFEST, REPORT, SIGNATURES, Artifact, KernelManifest
from esper.kernel.errors import MalformedManifest, TamperedArtifact, TruncatedArtifact, UnsafeArtifact, UnsignedArtifact
from esper.kernel.signing import BUILT, VALIDATED, Signature
from leyline import canonical
from leyline.errors import LeylineError

__all__ = ["MAX_MANIFEST", "parse_manifest", "read_artifact"]

MAX_MANIFEST = 1 << 20
MAX_SIGNATURE = 4096
MAX_REPORT = 1 << 20
MAX_FILES = 64
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_artifact(path: Path | str) -> Artifact:
    """Check the artifact at ``path`` byte by byte against its manifest.

    Signatures are read but not verified: that takes keys, see :func:`esper.kernel.signing.verify`.

    Raises:
        TruncatedArtifact: a file is missing or too short.
        MalformedManifest: the manifest is too large, not canonical JSON, or says something that can't be.
        TamperedArtifact: a blob has other bytes, or there is a file the manifest does not name.
        UnsafeArtifact: a symbolic link, a device, a name that is not plain.
        UnsignedArtifact: a signature file that can't be read.
    """
    path = Path(path)
    _directory(path)
    names = _names(path)
    if extra := names - {MANIFEST, BLOBS, SIGNATURES, REPORT}:
        raise TamperedArtifact(f"{path}: holds {min(extra)!r}, which does not belong to an artifact")
    data = _read(path / MANIFEST, MAX_MANIFEST, too_large=MalformedManifest)
    manifest = parse_manifest(data, str(path))
    if manifest.id != path.name:
        raise TamperedArtifact(f"{path}: the manifest names another artifact, {manifest.id}")
    _check_blobs(path, manifest)
    if REPORT in names:
        _read(path / REPORT, MAX_REPORT)
    signatures = _signatures(path) if SIGNATURES in names else {}
    return Artifact(path, manifest, hashlib.sha256(data).hexdigest(), signatures)


def parse_manifest(data: bytes, source: str) -> KernelManifest:
    """Read canonical manifest bytes and check that what they say holds together.

    Raises:
        MalformedManifest: with the field and the problem.
    """
    raw = _json(data, source, MalformedManifest)
    try:
        manifest = KernelManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedManifest(f"{source}: manifest field {where or 'root'}: {first['msg']}") from error
    if canonical.dumps(raw) != data:
        raise MalformedManifest(f"{source}: the manifest is not in canonical form (sorted keys, no spaces)")
    try:
        _check_meaning(manifest)
    except LeylineError as error:
        raise MalformedManifest(f"{source}: {error}") from error
    except ValueError as error:
        raise MalformedManifest(f"{source}: manifest {error}") from error
    return manifest


def _check_meaning(manifest: KernelManifest) -> None:
    """Everything that follows from recipe and interface is worked out again and compared."""
    ir, interface = manifest.blueprint, manifest.slot_interface
    ir.check(interface)
    identity = manifest.artifact_id
    expected = type(identity).make(
        ir.digest(), interface, manifest.hardware, manifest.strategy, canonical.digest(manifest.toolchain)[:8]
    )
    if str(expected) != manifest.id:
        raise ValueError(f"field id: {manifest.id} does not follow from the recipe, which gives {expected}")
    parameters = [(p.name, list(p.shape), p.init) for p in ir.parameters(interface)]
    if [(p.name, p.shape, p.init) for p in manifest.parameters] != parameters:
        raise ValueError("field parameters: not the ones the recipe has")
    if manifest.flops_per_sample != ir.flops(interface) or manifest.trainable != ir.trainable:
        raise ValueError("field flops_per_sample or trainable: not what the recipe gives")
    pair = manifest.pair
    if pair is None:
        return
    if pair.batch[0] > pair.batch[1]:
        raise ValueError("field pair.batch: the lower end is above the upper")
    for source in pair.backward:
        limit = {"p": len(manifest.parameters), "s": pair.saved}.get(source[0])
        if limit is not None and int(source[1:]) >= limit:
            raise ValueError(f"field pair.backward: {source} does not exist")
    if pair.backward.count("t") > 1:
        raise ValueError("field pair.backward: the gradient is named more than once")


def _check_blobs(path: Path, manifest: KernelManifest) -> None:
    sizes: dict[str, int] = {}
    for name, blob in manifest.blobs.items():
        if sizes.setdefault(blob.sha256, blob.size) != blob.size:
            raise MalformedManifest(f"{path}: blob {name!r} is given two sizes")
    directory = path / BLOBS
    _directory(directory)
    for name in _names(directory):
        if name not in sizes:
            raise TamperedArtifact(f"{path}: blobs/{name[:80]!r} is not named by the manifest")
    for digest, size in sizes.items():
        found = hashlib.sha256()
        with _open(directory / digest) as file:
            actual = os.fstat(file.fileno()).st_size
            if actual < size:
                raise TruncatedArtifact(f"{path}: blob {digest[:16]} has {actual} of {size} bytes")
            if actual > size:
                raise TamperedArtifact(f"{path}: blob {digest[:16]} has {actual} bytes instead of {size}")
            while piece := file.read(1 << 20):
                found.update(piece)
        if found.hexdigest() != digest:
            raise TamperedArtifact(f"{path}: blob {digest[:16]} has other bytes than its digest says")


def _signatures(path: Path) -> dict[str, Signature]:
    directory = path / SIGNATURES
    _directory(directory)
    signatures = {}
    for name in sorted(_names(directory)):
        purpose = name.removesuffix(".json")
        if name not in (f"{BUILT}.json", f"{VALIDATED}.json"):
            raise TamperedArtifact(f"{path}: signatures/{name[:80]!r} does not belong to an artifact")
        data = _read(directory / name, MAX_SIGNATURE, too_large=UnsignedArtifact)
        raw = _json(data, f"{path}: signature {purpose!r}", UnsignedArtifact)
        if not isinstance(raw, dict) or set(raw) != set(Signature.__dataclass_fields__):
            raise UnsignedArtifact(f"{path}: the {purpose!r} signature has other fields than a signature has")
        if not all(isinstance(value, str) for value in raw.values()):
            raise UnsignedArtifact(f"{path}: the {purpose!r} signature has a field that is not text")
        signatures[purpose] = Signature(**raw)
    return signatures


def _names(directory: Path) -> set[str]:
    names = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink() or not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                raise UnsafeArtifact(f"{directory}: {entry.name[:80]!r} is a link or a device, not a plain file")
            names.add(entry.name)
            if len(names) > MAX_FILES:
                raise TamperedArtifact(f"{directory}: more than {MAX_FILES} entries")
    return names


def _directory(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise TruncatedArtifact(f"{path}: can't be read ({error.strerror}); fetch the artifact again") from error
    except ValueError as error:
        raise UnsafeArtifact(f"{str(path)!r}: not a usable path ({error})") from error
    if not stat.S_ISDIR(mode):
        raise UnsafeArtifact(f"{path}: must be a real directory, not a link or a file")


def _open(path: Path) -> Any:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise TruncatedArtifact(f"{path.parent}: {path.name[:80]} is missing") from error
    except OSError as error:
        raise UnsafeArtifact(f"{path.parent}: {path.name[:80]} can't be opened ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnsafeArtifact(f"{path.parent}: {path.name[:80]} is not a plain file")
    return os.fdopen(handle, "rb")


def _read(path: Path, limit: int, too_large: type[Exception] = TamperedArtifact) -> bytes:
    with _open(path) as file:
        data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise too_large(f"{path}: larger than the {limit} bytes allowed")
    return data


def _json(data: bytes, source: str, error: type[Exception]) -> Any:
    try:
        return canonical.loads(data)
    except LeylineError as problem:
        raise error(f"{source}: not usable JSON ({problem})") from problem
