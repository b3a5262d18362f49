"""What the processes of the kernel pipeline count, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

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
