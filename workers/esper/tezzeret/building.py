"""Build one artifact: here, or in a process whose death is a verdict."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from esper.kernel.artifact import Artifact, artifact_id, manifest_for, write_artifact
from esper.kernel.backends import STRATEGIES, backend_for
from esper.kernel.children import Children, Job
from esper.kernel.errors import ArtifactError
from esper.kernel.reading import read_artifact
from esper.kernel.signing import SigningKey, sign_built
from esper.tezzeret.workdir import build_directory
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["TIMEOUTS", "BuildRequest", "BuildVerdict", "Builder", "build_artifact", "build_unsigned", "child"]

#: Seconds a strategy may take, as promised in the documentation.
TIMEOUTS = {"fast": 60.0, "standard": 300.0, "aggressive": 86_400.0}
#: What a strategy's builds import, ten seconds' worth for the compiler: once in the build server instead of in each.
_NEEDS = {
    "standard": (
        "torch.export",
        "torch._inductor.compile_fx",
        "torch._inductor.codegen.cpp_wrapper_cpu",
        "esper.kernel.backends.tracing",
        "esper.kernel.backends.compiling",
        "esper.tezzeret.building",
    ),
    "fast": ("esper.tezzeret.building",),
}


@dataclass(frozen=True)
class BuildRequest:
    """What to build. ``timeout`` in seconds; None takes the strategy's."""

    ir: BlueprintIR
    interface: Interface
    strategy: str = "fast"
    timeout: float | None = None

    @property
    def artifact_id(self) -> str:
        """The id the artifact will have."""
        return str(artifact_id(self.ir, self.interface, self.strategy))


@dataclass(frozen=True)
class BuildVerdict:
    """How a build ended: ``built`` with a path, or another ending with its cause."""

    artifact_id: str
    ending: Literal["built", "failed", "crashed", "timeout", "memory"]
    cause: str = ""
    path: Path | None = None
    manifest_digest: str = ""
    size: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is an artifact."""
        return self.ending == "built"


def build_artifact(ir: BlueprintIR, interface: Interface, strategy: str, out_root: Path, key: SigningKey) -> Path:
    """Build and sign in this process; returns ``<out_root>/<artifact id>``.

    ``standard`` imports Inductor for good: processes that train use :class:`Builder` instead.

    Raises:
        leyline.errors.BlueprintError: ``ir`` does not fit ``interface``.
        KernelBuildError: the build failed, or this machine can't build with that strategy.
    """
    path = build_unsigned(ir, interface, strategy, out_root)
    sign_built(read_artifact(path), key)
    return path


def build_unsigned(ir: BlueprintIR, interface: Interface, strategy: str, out_root: Path) -> Path:
    """Build and write the artifact without a signature."""
    ir.check(interface)
    backend = backend_for(strategy)
    with build_directory(str(artifact_id(ir, interface, strategy))) as workdir:
        built = backend.build(ir, interface, workdir)
    manifest = manifest_for(
        ir,
        interface,
        strategy,
        backend.name,
        built.blobs,
        saved_bytes_per_sample=built.saved_bytes_per_sample,
        pair=built.pair,
    )
    return write_artifact(out_root, manifest, built.blobs)


def child(arguments: Mapping[str, Any], confined: Mapping[str, str]) -> dict[str, Any]:
    """Build in a forked process; called by the build server with JSON, answers with JSON."""
    import torch

    torch.set_num_threads(1)
    ir = BlueprintIR.from_json(arguments["ir"])
    interface = Interface.from_dict(arguments["interface"])
    path = build_unsigned(ir, interface, arguments["strategy"], Path(arguments["out"]))
    return {"artifact": path.name, "confined": dict(confined)}


class Builder:
    """Builds artifacts in processes of their own and signs what comes back. Safe from several threads."""

    def __init__(self, out_root: Path, key: SigningKey, children: Children) -> None:
        """``out_root`` receives the artifacts; the key never enters a child."""
        self.out_root = out_root
        self._key = key
        self._children = children

    def build(self, request: BuildRequest) -> BuildVerdict:
        """Build; a bad blueprint, a crash, a timeout and running out of memory are verdicts like success is."""
        timeout = request.timeout or TIMEOUTS.get(request.strategy, TIMEOUTS["standard"])
        identity = request.artifact_id
        self.out_root.mkdir(parents=True, exist_ok=True)
        # The child writes into a directory of its own: whatever it leaves is read as a stranger's.
        staging = Path(tempfile.mkdtemp(dir=self.out_root, prefix=".build-"))
        try:
            job = Job(
                "esper.tezzeret.building:child",
                {
                    "ir": request.ir.to_json().decode(),
                    "interface": request.interface.to_dict(),
                    "strategy": request.strategy,
                    "out": str(staging),
                },
                timeout=timeout,
                needs=_NEEDS.get(request.strategy, ()),
            )
            outcome = self._children.run(job)
            if outcome.ending != "done":
                return BuildVerdict(identity, outcome.ending, outcome.cause, seconds=outcome.seconds)
            try:
                artifact = self._accept(staging / identity)
            except ArtifactError as error:
                return BuildVerdict(
                    identity, "failed", f"what was built can't be used: {error}", seconds=outcome.seconds
                )
            size = sum(blob.size for blob in artifact.manifest.blobs.values()) + len(artifact.manifest.to_bytes())
            return BuildVerdict(identity, "built", "", artifact.path, artifact.digest, size, outcome.seconds)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _accept(self, path: Path) -> Artifact:
        """Check what the child wrote, move it into place and sign it."""
        found = read_artifact(path)
        blobs = {name: found.blob(name) for name in found.manifest.blobs}
        artifact = read_artifact(write_artifact(self.out_root, found.manifest, blobs))
        sign_built(artifact, self._key)
        return artifact


def strategies() -> dict[str, str | None]:
    """Return every strategy this machine knows, with the reason why it can't be built here or None."""
    return {strategy: backend_for(strategy).unavailable() for strategy in STRATEGIES}
