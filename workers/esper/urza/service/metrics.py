"""What the service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of one service; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "urza_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "urza_request_seconds", "From the first byte of a request to the last of its answer.", ("method", "route"),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._refused = Counter("urza_refused", "Requests refused, by cause.", ("cause",), registry=self.registry)
        self._running = Gauge("urza_requests_running", "Requests being answered now.", registry=self.registry)

    def began(self) -> None:
        """A request is here."""
        self._running.inc()

    def ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """It has been answered, after so many seconds."""
        self._running.dec()
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def refused(self, cause: str) -> None:
        """A request was refused; ``cause`` is one of few."""
        self._refused.labels(cause).inc()

    def text(self) -> bytes:
        """The page Prometheus reads."""
        return generate_latest(self.registry)
