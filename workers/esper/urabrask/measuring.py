"""The part that runs in the sandbox: load the kernel, check it, time it. JSON in, JSON out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from esper.kernel.errors import ArtifactError
from esper.kernel.loading import open_kernel
from esper.kernel.module import Kernel, eager_kernel
from esper.kernel.reading import read_artifact
from esper.urabrask.correctness import check
from esper.urabrask.memory import peak_bytes
from esper.urabrask.power import PowerMeter
from esper.urabrask.timing import Latency, Ratio, compare, measure

__all__ = ["child", "examine"]

#: Seconds for which single calls of a ``fast`` kernel are timed: it is its own baseline.
FAST_SECONDS = 0.15


def child(arguments: Mapping[str, Any], confined: Mapping[str, str]) -> dict[str, Any]:
    """Examine one artifact in a forked process; called by the build server."""
    torch.set_num_threads(int(arguments["threads"]))
    # Libraries are extracted into the sandbox: what runs here must not write where trainers load from.
    os.environ["ESPER_CACHE_DIR"] = os.getcwd()
    kernel, load_ms = _load(arguments["artifact"], arguments["digest"])
    baseline = None
    if arguments["compare"]:
        baseline = eager_kernel(kernel.ir, kernel.interface)
        if arguments["baseline"]:
            baseline, _ = _load(arguments["baseline"], arguments["baseline_digest"])
    found = examine(kernel, baseline, int(arguments["batch"]), float(arguments["seconds"]))
    return {**found, "load_ms": load_ms, "sandbox": dict(confined), "environment": _environment()}


def examine(kernel: Kernel, baseline: Kernel | None, batch: int, seconds: float) -> dict[str, Any]:
    """Check ``kernel``, then time it against ``baseline`` (None: alone) at ``batch``, for at most ``seconds``."""
    low, high = kernel.interface.batch
    kernel.train()
    found = check(kernel, sorted({min(max(size, low), high) for size in (2, 3, 8, 17)}))
    answer: dict[str, Any] = {"correctness": asdict(found)}
    if found.problems:
        return answer
    step = _step(kernel, batch)
    for _ in range(3):
        step()
    meter = PowerMeter()
    if baseline is None:
        latency, ratio = measure(step, FAST_SECONDS), Ratio(1.0, 1.0, 1.0, 0, True)
    else:
        if baseline.ir != kernel.ir or baseline.interface != kernel.interface:
            raise ArtifactError("the baseline is a kernel of another blueprint or interface")
        baseline.load_state_dict(kernel.state_dict())
        other = _step(baseline.train(), batch)
        for _ in range(3):
            other()
        ratio, latency = compare(step, other, seconds)
    watts = meter.watts()
    return answer | _numbers(latency, ratio) | {"power_watts_avg": watts, "memory_bytes_peak": peak_bytes(step)}


def _numbers(latency: Latency, ratio: Ratio) -> dict[str, Any]:
    return {
        "latency_ms_mean": latency.mean_ms,
        "latency_ms_p99": latency.p99_ms,
        "calls": latency.calls,
        "ratio": ratio.ratio,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "pairs": ratio.pairs,
        "settled": ratio.settled,
    }


def _step(kernel: Kernel, batch: int) -> Callable[[], Any]:
    """One forward and one backward pass, as a training step makes them."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, kernel.interface.dtype)
    u = torch.randn(kernel.interface.shape(batch), generator=generator).to(dtype).requires_grad_()
    tangent = torch.randn(u.shape, generator=generator).to(dtype)
    leaves: list[Tensor] = [u, *kernel.parameters()]

    def step() -> Any:
        return torch.autograd.grad(kernel(u), leaves, tangent, allow_unused=True)

    return step


def _load(path: str, digest: str) -> tuple[Kernel, float]:
    artifact = read_artifact(Path(path))
    if artifact.digest != digest:
        raise ArtifactError(f"{path}: changed since it was verified")
    begin = time.perf_counter()
    kernel = open_kernel(artifact)
    return kernel, (time.perf_counter() - begin) * 1e3


def _environment() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpus": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 2),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
