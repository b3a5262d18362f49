"""What can be wrong with a kernel: one class per cause, so that a handler never has to read a message.

ArtifactError (esper.errors, exit code 2)
├── MalformedManifest      not JSON, too large, duplicate or unknown keys, wrong types, unsafe names
├── TruncatedArtifact      a file the manifest names is missing or shorter than it says
├── TamperedArtifact       a file has other bytes than the manifest says, or one the manifest does not name
├── UnsafeArtifact         a link, a device, a path that leaves the directory
├── UnsignedArtifact       a required signature is missing, by an unknown key, or over something else
└── ForeignArtifact        built for other hardware or by another toolchain than the one here
KernelInputError           a tensor that does not fit the kernel's interface (raised at run time)
BackendUnavailable         this machine can't build or run that backend; says why
"""

from __future__ import annotations

from esper.errors import ArtifactError, KernelBuildError, RunFailed

__all__ = [
    "ArtifactError",
    "BackendUnavailable",
    "ForeignArtifact",
    "KernelBuildError",
    "KernelInputError",
    "MalformedManifest",
    "TamperedArtifact",
    "TruncatedArtifact",
    "UnsafeArtifact",
    "UnsignedArtifact",
]


class MalformedManifest(ArtifactError):
    """The manifest can't be read as one: size, syntax, keys, types or names."""


class TruncatedArtifact(ArtifactError):
    """A file is missing or shorter than the manifest says."""


class TamperedArtifact(ArtifactError):
    """A file holds other bytes than the manifest says, or is not named by it at all."""


class UnsafeArtifact(ArtifactError):
    """The directory holds a link, a device or a name that leads out of it."""


class UnsignedArtifact(ArtifactError):
    """A signature that is required is missing, unknown, or covers something else."""


class ForeignArtifact(ArtifactError):
    """The artifact was built for other hardware or by another toolchain."""


class KernelInputError(RunFailed):
    """A tensor does not fit the interface the kernel was built for."""


class BackendUnavailable(KernelBuildError):
    """This machine can't build with that backend; the message says what is missing."""
