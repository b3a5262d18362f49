"""A kernel artifact: one directory that says what it is, holds its bytes by their digest, and is signed.

    <artifact id>/
      manifest.json            canonical JSON: recipe, interface, parameters, toolchain, digest and size of each blob
      blobs/<sha256>           the bytes; an eager kernel has none, its recipe is all of it
      signatures/built.json    by the compiler
      signatures/validated.json  by the benchmarker, over manifest and report
      report.json              optional: the report that was signed

Nothing in it is ever executed or parsed before sizes and digests fit. See :mod:`esper.kernel.reading` for the checks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from esper.files import write_file
from esper.kernel import hardware
from esper.kernel.errors import ArtifactError, TamperedArtifact
from esper.kernel.signing import Signature
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.identity import ArtifactId
from leyline.interface import Interface

__all__ = [
    "Artifact",
    "Blob",
    "KernelManifest",
    "PairCall",
    "Parameter",
    "artifact_id",
    "manifest_for",
    "write_artifact",
]

MANIFEST = "manifest.json"
BLOBS = "blobs"
SIGNATURES = "signatures"
REPORT = "report.json"

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
BlobName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}(\.[a-z0-9]{1,8})?$")]
Count = Annotated[int, Field(ge=0, le=2**62)]
Source = Annotated[str, StringConstraints(pattern=r"^(u|t|[ps](0|[1-9][0-9]{0,3}))$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Blob(_Frozen):
    """Digest and size in bytes of one blob."""

    sha256: Digest
    size: Annotated[int, Field(ge=0, le=2**30)]


class Parameter(_Frozen):
    """Name, shape and initialiser of one parameter, in calling order."""

    name: str
    shape: list[int]
    init: str


class PairCall(_Frozen):
    """How the two compiled halves are called.

    The forward half takes the parameters in order, then the input, and returns the output followed by ``saved``
    tensors. The backward half takes ``backward``: ``p<i>`` a parameter, ``u`` the input, ``s<i>`` a saved tensor, ``t``
    the output's gradient; it returns the parameters' gradients in order, then the input's. ``batch`` is the range of
    batch sizes the halves were compiled for, inclusive.
    """

    saved: Annotated[int, Field(ge=0, le=4096)]
    backward: list[Source]
    batch: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class KernelManifest(_Frozen):
    """Everything about an artifact but its bytes. Its digest is what gets signed."""

    format: Literal[1]
    id: str
    ir: dict[str, Any]
    interface: dict[str, Any]
    strategy: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}$")]
    backend: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}$")]
    hardware: str
    toolchain: dict[str, str]
    built_with: dict[str, str]
    parameters: list[Parameter]
    blobs: dict[BlobName, Blob]
    trainable: bool
    saved_bytes_per_sample: Count
    flops_per_sample: Count
    pair: PairCall | None = None

    @cached_property
    def blueprint(self) -> BlueprintIR:
        """The recipe."""
        return BlueprintIR.from_json(self.ir)

    @cached_property
    def slot_interface(self) -> Interface:
        """The interface the kernel was built for."""
        return Interface.from_dict(self.interface)

    @cached_property
    def artifact_id(self) -> ArtifactId:
        """The artifact's id."""
        return ArtifactId.parse(self.id)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON that is stored, digested and signed."""
        return canonical.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the kernel."""
        return self.blueprint.parameter_count(self.slot_interface)


def artifact_id(ir: BlueprintIR, interface: Interface, strategy: str, device: str = "cpu") -> ArtifactId:
    """Name the artifact of ``ir`` for ``interface`` on this machine, whether or not it has been built."""
    return ArtifactId.make(
        ir.digest(), interface, hardware.hardware_target(device), strategy, hardware.toolchain_hash()
    )


def manifest_for(
    ir: BlueprintIR,
    interface: Interface,
    strategy: str,
    backend: str,
    blobs: Mapping[str, bytes],
    *,
    saved_bytes_per_sample: int,
    pair: PairCall | None = None,
    device: str = "cpu",
) -> KernelManifest:
    """Describe freshly built ``blobs``.

    Raises:
        leyline.errors.BlueprintError: ``ir`` does not fit ``interface``.
    """
    ir.check(interface)
    return KernelManifest(
        format=1,
        id=str(artifact_id(ir, interface, strategy, device)),
        ir=canonical.loads(ir.canonical()),  # equal designs give equal manifests
        interface=interface.to_dict(),
        strategy=strategy,
        backend=backend,
        hardware=hardware.hardware_target(device),
        toolchain=hardware.toolchain(),
        built_with=hardware.built_with(backend),
        parameters=[Parameter(name=p.name, shape=list(p.shape), init=p.init) for p in ir.parameters(interface)],
        blobs={n: Blob(sha256=hashlib.sha256(b).hexdigest(), size=len(b)) for n, b in sorted(blobs.items())},
        trainable=ir.trainable,
        saved_bytes_per_sample=saved_bytes_per_sample,
        flops_per_sample=ir.flops(interface),
        pair=pair,
    )


@dataclass(frozen=True)
class Artifact:
    """An artifact whose every byte has been checked against its manifest (but not yet whose word it is)."""

    path: Path
    manifest: KernelManifest
    digest: str
    signatures: dict[str, Signature] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The artifact's id, also the name of its directory."""
        return self.manifest.id

    def blob(self, name: str) -> bytes:
        """Return one blob, checked again as it is read.

        Raises:
            TamperedArtifact: the bytes changed since the artifact was read.
        """
        blob = self.manifest.blobs[name]
        data = (self.path / BLOBS / blob.sha256).read_bytes()
        if len(data) != blob.size or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise TamperedArtifact(f"{self.path}: blob {name!r} changed after it was verified")
        return data

    def add_signature(self, signature: Signature) -> Signature:
        """Store ``signature`` beside the manifest, in place of an earlier one for the same purpose."""
        write_file(self.path / SIGNATURES / f"{signature.purpose}.json", canonical.dumps(signature.to_dict()))
        self.signatures[signature.purpose] = signature
        return signature

    def add_report(self, report: Mapping[str, Any]) -> str:
        """Store a validation report in the artifact and return its digest."""
        data = canonical.dumps(dict(report))
        write_file(self.path / REPORT, data)
        return hashlib.sha256(data).hexdigest()


def write_artifact(root: Path, manifest: KernelManifest, blobs: Mapping[str, bytes]) -> Path:
    """Write ``<root>/<artifact id>``; it appears whole or not at all, and an equal one that is there stays.

    A redelivered build request may find the artifact of the first attempt: with the same manifest it is kept with its
    signatures, otherwise it is replaced.

    Raises:
        ArtifactError: ``blobs`` are not the ones the manifest describes.
        OSError: the disk is full or ``root`` can't be written.
    """
    if blobs.keys() != manifest.blobs.keys():
        raise ArtifactError(f"{manifest.id}: the manifest names blobs {sorted(manifest.blobs)}, given {sorted(blobs)}")
    for name, data in blobs.items():
        if hashlib.sha256(data).hexdigest() != manifest.blobs[name].sha256:
            raise ArtifactError(f"{manifest.id}: blob {name!r} is not the one the manifest describes")
    root.mkdir(parents=True, exist_ok=True)
    target = root / manifest.id
    if target.is_dir() and _same_manifest(target, manifest):
        return target
    staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{manifest.id[:16]}.", suffix=".tmp"))
    try:
        (staging / BLOBS).mkdir()
        (staging / SIGNATURES).mkdir()
        for name, data in blobs.items():
            write_file(staging / BLOBS / manifest.blobs[name].sha256, data)
        write_file(staging / MANIFEST, manifest.to_bytes())
        staging.chmod(0o755)
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=root, suffix=".tmp"))
            os.replace(target, old / "old")
            shutil.rmtree(old)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _same_manifest(path: Path, manifest: KernelManifest) -> bool:
    from esper.kernel.reading import read_artifact

    try:
        return read_artifact(path).digest == manifest.digest
    except ArtifactError:
        return False
