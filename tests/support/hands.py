"""Quick hands for tests of the kernel pipeline: builds in this process, and verdicts as told; the rest is real."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from artifacts import BUILDER, VALIDATOR
from esper.errors import LibraryError
from esper.kernel import manifest_for, read_artifact, sign_built, sign_validated, write_artifact
from esper.tezzeret import BuildRequest, BuildVerdict
from esper.urabrask import BenchmarkRequest, ValidationReport
from esper.urza import LibraryUnavailable

NUMBERS = {"ratio": 0.8, "latency_ms_mean": 1.5, "memory_mb_peak": 3.0, "tags": ["high_speed"], "risk": 0.2}


class QuickBuilds:
    """Builds; ``plan`` may say by request how it ends instead."""

    def __init__(self, root: Path, plan: Callable[[BuildRequest], BuildVerdict | None] = lambda _: None) -> None:
        self._root, self.plan = root, plan
        self.asked: Counter[str] = Counter()

    def build(self, request: BuildRequest) -> BuildVerdict:
        self.asked[request.artifact_id] += 1
        said = self.plan(request)
        if said is not None:
            return said
        # A kernel of strategy `standard` that holds no library: nobody here runs it.
        manifest = manifest_for(request.ir, request.interface, request.strategy, "eager", {}, saved_bytes_per_sample=0)
        artifact = read_artifact(write_artifact(self._root, manifest, {}))
        sign_built(artifact, BUILDER)
        return BuildVerdict(request.artifact_id, "built", "", artifact.path, artifact.digest, 1, 0.1)


class QuickBenchmarks:
    """Certifies; ``plan`` may name another verdict by artifact id."""

    def __init__(self, plan: Callable[[str], str] = lambda _: "validated") -> None:
        self.plan = plan
        self.numbers = dict(NUMBERS)
        self.asked: list[BenchmarkRequest] = []
        self.peers: list[list[Mapping[str, Any]]] = []

    def certify(
        self, request: BenchmarkRequest, *, peers: Iterable[Mapping[str, Any]] = (), previous: Iterable[str] = ()
    ) -> ValidationReport:
        self.asked.append(request)
        self.peers.append(list(peers))
        artifact = read_artifact(request.artifact)
        verdict = self.plan(artifact.path.name)
        body = {"manifest": artifact.digest, "verdict": verdict, **self.numbers}
        if verdict == "crashed":
            return ValidationReport("rejected", "crashed with SIGSEGV", body | {"ending": "crashed"})
        if verdict == "validated":
            digest = artifact.add_report(body)
            sign_validated(artifact, digest, artifact.manifest.hardware, VALIDATOR)
            return ValidationReport("validated", "", body)
        return ValidationReport(verdict, f"said to be {verdict}", body)  # type: ignore[arg-type]


class AwayLibrary:
    """A library that can't be reached while ``away`` is set; ``calls`` counts what is asked meanwhile."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.away = threading.Event()
        self.error: LibraryError = LibraryUnavailable("the library is away")
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._library, name)

        def asked(*arguments: Any, **more: Any) -> Any:
            if self.away.is_set():
                self.calls[name] += 1
                raise self.error
            return method(*arguments, **more)

        return asked
