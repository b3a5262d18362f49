"""Kernels: the artifact format, signatures, backends and the module that runs inside a seed."""

from __future__ import annotations

from esper.kernel.artifact import Artifact, KernelManifest, artifact_id, manifest_for, write_artifact
from esper.kernel.loading import load_kernel, open_kernel
from esper.kernel.module import Kernel, eager_kernel
from esper.kernel.reading import read_artifact
from esper.kernel.signing import PublicKeys, SigningKey, sign_built, sign_validated, verify

__all__ = [
    "Artifact",
    "Kernel",
    "KernelManifest",
    "PublicKeys",
    "SigningKey",
    "artifact_id",
    "eager_kernel",
    "load_kernel",
    "manifest_for",
    "open_kernel",
    "read_artifact",
    "sign_built",
    "sign_validated",
    "verify",
    "write_artifact",
]
