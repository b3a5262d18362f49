"""Certify one artifact: verify who built it, examine it in a sandbox, write and sign the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.kernel.artifact import Artifact
from esper.kernel.children import Children, Job
from esper.kernel.errors import ArtifactError
from esper.kernel.loading import check_home
from esper.kernel.reading import read_artifact
from esper.kernel.signing import PublicKeys, SigningKey, sign_validated, verify
from esper.urabrask.report import ValidationReport, compose, failure

__all__ = ["TYPICAL_BATCH", "BenchmarkRequest", "Benchmarker", "benchmark"]

#: Batch at which kernels are timed unless asked otherwise; inside every usual training batch's order of magnitude.
TYPICAL_BATCH = 32
#: Seconds the comparison with ``fast`` may take before the verdict is *noisy*.
COMPARE_SECONDS = 20.0


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to certify. ``baseline`` is the ``fast`` artifact of the same blueprint; without it an equal one is made."""

    artifact: Path
    baseline: Path | None = None
    prior_risk: float = 0.1
    batch: int = TYPICAL_BATCH
    threads: int = 1
    seconds: float = COMPARE_SECONDS
    timeout: float = 120.0


def benchmark(
    request: BenchmarkRequest,
    keys: PublicKeys,
    children: Children,
    *,
    peers: Iterable[Mapping[str, Any]] = (),
    previous: Iterable[str] = (),
) -> ValidationReport:
    """Examine an artifact in a process of its own; nothing is written or signed.

    Args:
        request: what to certify and how long to try.
        keys: builders whose signature is taken; an unsigned artifact is not run, not even in a sandbox.
        children: where the process comes from.
        peers: bodies of reports of other artifacts, for the tags.
        previous: tags this artifact had before.

    Raises:
        ArtifactError: the artifact is damaged, unsigned or foreign: there is nothing to report on.
    """
    artifact = _trusted(request.artifact, keys)
    baseline = _trusted(request.baseline, keys) if request.baseline is not None else None
    manifest = artifact.manifest
    low, high = manifest.slot_interface.batch
    batch = min(max(request.batch, low), high)
    job = Job(
        "esper.urabrask.measuring:child",
        {
            "artifact": str(artifact.path.absolute()),
            "digest": artifact.digest,
            "compare": manifest.strategy != "fast",
            "baseline": str(baseline.path.absolute()) if baseline else "",
            "baseline_digest": baseline.digest if baseline else "",
            "batch": batch,
            "threads": request.threads,
            "seconds": request.seconds,
        },
        timeout=request.timeout,
        file_bytes=64 << 20,
        needs=("esper.urabrask.measuring",),
    )
    outcome = children.run(job)
    if outcome.ending != "done":
        return failure(manifest, artifact.digest, outcome.cause, outcome)
    return compose(
        manifest,
        artifact.digest,
        outcome.answer,
        prior=request.prior_risk,
        batch=batch,
        seconds=outcome.seconds,
        peers=list(peers),
        previous=tuple(previous),
    )


def _trusted(path: Path, keys: PublicKeys) -> Artifact:
    artifact = read_artifact(path)
    verify(artifact, keys, validated=False)
    check_home(artifact)
    return artifact


class Benchmarker:
    """Certifies artifacts: examines them and, when they pass, puts report and signature into their directory."""

    def __init__(self, key: SigningKey, keys: PublicKeys, children: Children) -> None:
        """``key`` signs for the validator; ``keys`` say whose builds are looked at."""
        self._key = key
        self._keys = keys
        self._children = children

    def certify(
        self,
        request: BenchmarkRequest,
        *,
        peers: Iterable[Mapping[str, Any]] = (),
        previous: Iterable[str] = (),
    ) -> ValidationReport:
        """Examine ``request.artifact``; a validated one gets its report and signature.

        Raises:
            ArtifactError: see :func:`benchmark`; also when the artifact changed while it was examined.
        """
        report = benchmark(request, self._keys, self._children, peers=peers, previous=previous)
        if report.verdict == "validated":
            artifact = read_artifact(request.artifact)
            if artifact.digest != report.body["manifest"]:
                raise ArtifactError(f"{request.artifact}: changed while it was examined; build it again")
            digest = artifact.add_report(report.body)
            sign_validated(artifact, digest, artifact.manifest.hardware, self._key)
        return report
