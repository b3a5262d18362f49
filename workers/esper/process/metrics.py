"""What processes have in common to count: the bus's traffic, and the breakers before what may be away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from esper.oona import Bus, CircuitBreaker, Counters


class BusCollector(Collector):
    """``esper_bus_messages_total`` by what became of them and kind of traffic, read when somebody asks."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        counted = CounterMetricFamily(
            "esper_bus_messages", "Messages of this process, by what became of them.", labels=("outcome", "kind")
        )
        counters = self._bus.counters()
        for each in fields(Counters):
            for kind, number in getattr(counters, each.name).items():
                counted.add_metric((each.name, kind.value), number)
        yield counted


class BreakerCollector(Collector):
    """``esper_breaker_open``: 1 while calls to something are not even tried, 0.5 while one is let through."""

    def __init__(self, breakers: Callable[[], list[CircuitBreaker]]) -> None:
        self._breakers = breakers

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        values = {"closed": 0.0, "half-open": 0.5, "open": 1.0}
        shown = GaugeMetricFamily("esper_breaker_open", "Whether calls are held back.", labels=("to",))
        for breaker in self._breakers():
            shown.add_metric((breaker.name,), values[breaker.state.value])
        yield shown
