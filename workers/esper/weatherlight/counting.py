"""What the processes of an installation count besides what all do, for Prometheus."""

from __future__ import annotations

from collections import Counter as TallyOf
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from esper.oona import Outcome

_BUILD_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)


class Counted:
    """A ``Tally`` that counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "esper_deliveries", "Deliveries, by what became of them.", ("topic", "outcome"), registry=registry
        )
        self._built = Histogram(
            "esper_build_seconds", "How long builds took.", ("strategy",), buckets=_BUILD_SECONDS, registry=registry
        )
        self._verdicts = Counter(
            "esper_verdicts", "States artifacts were brought to.", ("state",), registry=registry
        )  # fmt: skip

    def outcome(self, topic: str, outcome: Outcome) -> None:
        """See ``Tally``."""
        self._deliveries.labels(topic, outcome.value).inc()

    def built(self, strategy: str, seconds: float) -> None:
        """See ``Tally``."""
        self._built.labels(strategy).observe(seconds)

    def verdict(self, verdict: str) -> None:
        """See ``Tally``."""
        self._verdicts.labels(verdict).inc()


class RunCollector(Collector):
    """A run's own figures, read from its status when somebody asks."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        said = self._status()
        figures = {
            "epoch": ("Finished epochs.", said.get("epoch", 0)),
            "epochs": ("Epochs to train.", said["epochs"]),
            "paused": ("1 while a person has the run wait.", float(said["phase"] == "Paused")),
            "flops": ("Training FLOPs spent.", said.get("budget", {}).get("flops_used", 0)),
            "checkpoints_behind": ("Commits that are not durable yet.", said.get("checkpoints", {}).get("behind", 0)),
            "news_behind": ("Commits whose news the broker does not have yet.", said.get("news", {}).get("behind", 0)),
        }
        for name, (words, value) in figures.items():
            yield GaugeMetricFamily(f"esper_run_{name}", words, value=value)
        stages = GaugeMetricFamily("esper_run_seeds", "Seeds by stage.", labels=("stage",))
        for stage, count in sorted(TallyOf(seed["stage"] for seed in said.get("seeds", ())).items()):
            stages.add_metric((stage,), count)
        yield stages
        troubled = GaugeMetricFamily(
            "esper_run_condition", "1 for a part that is not as it should be.", labels=("part",)
        )
        for part, words in said["conditions"].items():
            troubled.add_metric((part,), float(words != "ok"))
        yield troubled
        refused = CounterMetricFamily(
            "esper_run_commands_refused", "Commands that failed verification, by error.", labels=("error",)
        )
        for error, number in said.get("commands", {}).get("refused", {}).items():
            refused.add_metric((error,), number)
        yield refused

    def describe(self) -> list[Metric]:
        """Nothing: the names are known when somebody asks."""
        return []
