"""The benchmarks there are, with the time each takes on two idle cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Benchmark:
    """``module`` in this package has ``run(quick) -> Report``; times are estimates in seconds."""

    module: str
    summary: str
    seconds: int
    quick_seconds: int


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "dormant": Benchmark("dormant", "what dormant seeds cost a training step", 150, 25),
        "no-pause": Benchmark("no_pause", "longest step while kernels load and graft", 180, 60),
        "kernel-load": Benchmark("loading", "kernel load from the local cache", 60, 20),
        "rollback": Benchmark("rollback", "time and exactness of rollbacks", 30, 12),
        "decision": Benchmark("deciding", "one decision with ten thousand seeds", 60, 15),
        "telemetry": Benchmark("telemetry", "cost of recording an epoch", 10, 6),
        "envelope": Benchmark("envelope", "cost of a signed envelope", 8, 5),
        "bus": Benchmark("bus", "messages through a broker, beside the bare client", 180, 60),
        "library": Benchmark("library", "query of the kernel library", 40, 15),
        "library-service": Benchmark("library_service", "the kernel library over REST, on PostgreSQL and S3", 150, 60),
        "pipeline": Benchmark("pipeline", "news by a broker, and kernels from request to memory", 440, 85),
        "ranks": Benchmark("ranks", "a training step on two ranks, beside one", 300, 100),
        "operator-scale": Benchmark("operator_scale", "training runs seen through by an operator", 600, 45),
        "operator-news": Benchmark("operator_news", "from what runs say on a broker to their status", 200, 60),
        "operator-cluster": Benchmark("operator_cluster", "training runs beside bare Jobs, on played nodes", 300, 60),
        "memory": Benchmark("memory", "memory of dormant and active seeds", 150, 70),
        "twin-error": Benchmark("twin_error", "how often the judge errs", 1200, 120),
    }
)
