"""Artifacts for tests of the kernel packages: small, really built, really signed; the compiled one once a process."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
from pathlib import Path

from esper.karn.catalogue import CATALOGUE
from esper.kernel import PublicKeys, SigningKey, manifest_for, read_artifact, sign_validated, write_artifact
from esper.kernel.artifact import KernelManifest, PairCall
from esper.kernel.children import Children
from esper.kernel.reading import Artifact
from esper.tezzeret import Builder, BuildRequest, build_artifact
from leyline.interface import Interface, Layout

VECTOR = Interface(Layout.VECTOR, 8)
SEQUENCE = Interface(Layout.SEQUENCE, 8, (5,))
#: One interface for each layout, as small as the catalogue's designs allow.
SMALL = {
    Layout.VECTOR: VECTOR,
    Layout.SEQUENCE: SEQUENCE,
    Layout.IMAGE1D: Interface(Layout.IMAGE1D, 8, (6,)),
    Layout.IMAGE2D: Interface(Layout.IMAGE2D, 8, (4, 6)),
}
BUILDER, VALIDATOR = SigningKey.generate(), SigningKey.generate()
KEYS = PublicKeys.of([BUILDER], [VALIDATOR])
REPORT = {"verdict": "validated", "ratio": 1.0}


def built(root: Path, name: str = "bottleneck", interface: Interface = VECTOR) -> Artifact:
    """A ``fast`` artifact with the builder's signature."""
    return read_artifact(build_artifact(CATALOGUE[name].ir, interface, "fast", root, BUILDER))


def certified(root: Path, name: str = "bottleneck", interface: Interface = VECTOR) -> Artifact:
    """The same with a report and the validator's signature."""
    return certify(built(root, name, interface))


def certify(artifact: Artifact) -> Artifact:
    """Put a report and the validator's signature into an artifact that has the builder's."""
    digest = artifact.add_report(REPORT)
    sign_validated(artifact, digest, artifact.manifest.hardware, VALIDATOR)
    return read_artifact(artifact.path)


def blobbed(root: Path) -> tuple[Path, KernelManifest]:
    """An unsigned artifact in the form of a compiled pair, whose halves are no libraries: for tests of the format."""
    blobs = {"forward.so": b"forward" * 40, "backward.so": b"backward" * 40}
    call = PairCall(saved=1, backward=["p0", "u", "s0", "t"], batch=(1, 64))
    manifest = manifest_for(
        CATALOGUE["bottleneck"].ir, VECTOR, "standard", "aoti", blobs, saved_bytes_per_sample=8, pair=call
    )
    return write_artifact(root, manifest, blobs), manifest


@functools.cache
def children() -> Children:
    """One build server for all tests of this process."""
    made = Children()
    atexit.register(made.close)
    return made


@functools.cache
def pair() -> Artifact:
    """A compiled pair (causal attention behind a norm), built and signed; needs a compiler and half a minute."""
    root = Path(tempfile.mkdtemp(prefix="esper-test-pair-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    verdict = Builder(root, BUILDER, children()).build(BuildRequest(CATALOGUE["attention"].ir, SEQUENCE, "standard"))
    assert verdict.ok, verdict
    assert verdict.path is not None
    return certify(read_artifact(verdict.path))


def digests(path: Path) -> dict[str, str]:
    """Every file below ``path`` with its digest."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
