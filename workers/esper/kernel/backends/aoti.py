"""The AOTInductor backend: a pair of shared libraries, forward and backward, with parameters as plain inputs."""

from __future__ import annotations

from pathlib import Path

from esper.kernel import hardware
from esper.kernel.artifact import Artifact
from esper.kernel.backends import Built
from esper.kernel.backends.pair import BACKWARD, FORWARD, open_pair
from esper.kernel.errors import BackendUnavailable, MalformedManifest
from esper.kernel.module import Kernel
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["AotiBackend"]


class AotiBackend:
    """Builds in 20 to 60 seconds where a C++ compiler is; loads in under a millisecond a half anywhere."""

    name = "aoti"

    def unavailable(self) -> str | None:
        """Say why no pair can be built here: no compiler, or no CPU target."""
        if hardware.compiler() is None:
            return "no C++ compiler on the PATH; install g++ or set CXX, or use the strategy 'fast'"
        return None

    def build(self, ir: BlueprintIR, interface: Interface, workdir: Path) -> Built:
        """Trace, cut and compile. Imports Inductor: call it in a process of its own.

        Raises:
            BackendUnavailable: no compiler.
            KernelBuildError: the result does not hold up.
        """
        if reason := self.unavailable():
            raise BackendUnavailable(reason)
        from esper.kernel.backends.compiling import build_pair

        return build_pair(ir, interface, workdir)

    def load(self, artifact: Artifact) -> Kernel:
        """Load both halves.

        Raises:
            MalformedManifest: the artifact is not a pair.
        """
        manifest = artifact.manifest
        if manifest.pair is None or set(manifest.blobs) != {FORWARD, BACKWARD}:
            raise MalformedManifest(f"{artifact.id}: a compiled pair has the blobs {FORWARD} and {BACKWARD} and a call")
        return Kernel(manifest, open_pair(artifact))
