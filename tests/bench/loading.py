"""How long a certified kernel takes to load from the local cache: one half of a compiled pair, an eager kernel, all.

A half is opened from a file of its own each time (the dynamic linker would hand back one that is open already), after
the process has opened one pair: its first costs what every later one does not. *All* is what a seed waits for: every
byte hashed, both signatures verified, the manifest checked against the recipe, the halves opened, parameters drawn.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.bench.analysis import median, single
from tests.bench.report import BELOW, Report, bounded, reported

from esper.cache import cache_directory
from esper.karn.catalogue import CATALOGUE
from esper.kernel import PublicKeys, SigningKey, load_kernel, read_artifact, sign_validated
from esper.kernel.artifact import Artifact
from esper.kernel.backends import backend_for, pair
from esper.kernel.backends.pair import BACKWARD, FORWARD
from esper.kernel.children import Children
from esper.tezzeret import Builder, BuildRequest
from leyline.interface import Interface, Layout

GOAL_MS = 1.0
DESIGN = "bottleneck"
SLOT = Interface(Layout.VECTOR, 32)


def run(quick: bool = False) -> Report:
    """Measure; without a C++ compiler only what needs none."""
    report = Report()
    count = 40 if quick else 200
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = os.environ.get("ESPER_CACHE_DIR")
    try:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder, Children() as children:
            root = Path(folder)
            os.environ["ESPER_CACHE_DIR"] = str(root / "cache")
            builder, validator = SigningKey.generate(), SigningKey.generate()
            keys = PublicKeys.of([builder], [validator])
            eager = _artifact("fast", root, builder, validator, children)
            reason = backend_for("standard").unavailable()
            if reason is None:
                compiled = _artifact("standard", root, builder, validator, children)
                _halves(report, compiled, keys, root, count)
                _whole(report, "a compiled pair", compiled, keys, count)
            else:
                report.details["unavailable"] = reason
            _whole(report, "an eager kernel", eager, keys, count)
    finally:
        torch.set_num_threads(threads)
        if before is None:
            os.environ.pop("ESPER_CACHE_DIR", None)
        else:
            os.environ["ESPER_CACHE_DIR"] = before
    return report


def _artifact(
    strategy: str, root: Path, builder: SigningKey, validator: SigningKey, children: Children
) -> Artifact:  # fmt: skip
    verdict = Builder(root / "built", builder, children).build(BuildRequest(CATALOGUE[DESIGN].ir, SLOT, strategy))
    if not verdict.ok or verdict.path is None:
        raise RuntimeError(f"{strategy} could not be built: {verdict.ending}: {verdict.cause}")
    artifact = read_artifact(verdict.path)
    sign_validated(artifact, artifact.add_report({"verdict": "validated"}), artifact.manifest.hardware, validator)
    return read_artifact(verdict.path)


def _halves(report: Report, artifact: Artifact, keys: PublicKeys, root: Path, count: int) -> None:
    """The first load of the process, then each half from ``count`` files of its own, the two taking turns."""
    first = _timed(lambda: load_kernel(artifact.path, keys))
    report.rows.append(reported("first compiled pair a process loads", single(first), "ms", "extracted, verified"))
    found: dict[str, list[float]] = {FORWARD: [], BACKWARD: []}
    for number in range(count):
        for name, times in found.items():
            library = root / f"{number}-{name}"
            shutil.copyfile(cache_directory(pair.CACHE) / f"{artifact.manifest.blobs[name].sha256}.so", library)
            times.append(_timed(lambda library=library: pair.load_half(library)))  # type: ignore[misc]
            library.unlink()
    for name, times in found.items():
        what = name.removesuffix(".so")
        report.rows.append(
            bounded(
                f"load the {what} half", f"< {GOAL_MS:g} ms", median(times), "ms", BELOW, GOAL_MS,
                f"{_p95(times)}; {artifact.manifest.blobs[name].size >> 10} KiB",
            )
        )  # fmt: skip
        report.details[f"{what} half, ms"] = times


def _whole(report: Report, what: str, artifact: Artifact, keys: PublicKeys, count: int) -> None:
    load_kernel(artifact.path, keys)
    times = []
    for _ in range(count):
        pair._halves.clear()
        times.append(_timed(lambda: load_kernel(artifact.path, keys)))
    report.rows.append(
        reported(f"verify and load {what}", median(times), "ms", f"{_p95(times)}; the same files again and again")
    )
    report.details[f"{what}, ms"] = times


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds; what was made is kept until the clock has been read."""
    began = time.perf_counter()
    made = work()
    took = (time.perf_counter() - began) * 1e3
    del made
    return took


def _p95(times: list[float]) -> str:
    return f"95th percentile {statistics.quantiles(times, n=20)[-1]:.3g} ms"
