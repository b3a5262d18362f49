"""From a directory on disk to a kernel: check every byte, then every signature, then whether it was made for here."""

from __future__ import annotations

from pathlib import Path

import torch

from esper.kernel import hardware
from esper.kernel.artifact import Artifact
from esper.kernel.backends import backend
from esper.kernel.errors import ForeignArtifact
from esper.kernel.module import Kernel
from esper.kernel.reading import read_artifact
from esper.kernel.signing import PublicKeys, verify

__all__ = ["check_home", "load_kernel", "open_kernel"]


def load_kernel(path: Path | str, keys: PublicKeys, report: str | None = None) -> Kernel:
    """Verify the artifact at ``path`` and load it. Nothing of it is opened before everything fits.

    Args:
        path: the artifact's directory.
        keys: whose signatures are taken; both a builder's and a validator's are required.
        report: digest of the validation report that must have been signed; None takes the one the signature names.

    Raises:
        ArtifactError: damaged, unsigned, unsafe or foreign, as the subclass says.
    """
    artifact = read_artifact(path)
    verify(artifact, keys, report)
    return open_kernel(artifact)


def open_kernel(artifact: Artifact) -> Kernel:
    """Load an artifact that has been verified already, if it was made for this machine.

    Raises:
        ForeignArtifact: made for other hardware or by another toolchain.
        BackendUnavailable: its backend does not exist here.
    """
    check_home(artifact)
    return backend(artifact.manifest.backend).load(artifact)


def check_home(artifact: Artifact) -> None:
    """Raise ForeignArtifact unless the artifact was made for this machine by an equal toolchain."""
    manifest = artifact.manifest
    here = {hardware.hardware_target("cpu")}
    if torch.cuda.is_available():
        here.add(hardware.hardware_target("cuda"))
    if manifest.hardware not in here:
        raise ForeignArtifact(f"{artifact.id}: built for {manifest.hardware}, here is {', '.join(sorted(here))}")
    if manifest.toolchain != hardware.toolchain():
        theirs, ours = manifest.toolchain, hardware.toolchain()
        key = next(k for k in sorted(theirs | ours) if theirs.get(k) != ours.get(k))
        raise ForeignArtifact(
            f"{artifact.id}: its toolchain has {key} {theirs.get(key)}, this one {ours.get(key)}; build it again here"
        )
