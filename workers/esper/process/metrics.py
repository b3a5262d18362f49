"""What processes have in common to count: the bus's traffic, and the breakers before what may be away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from esper.errors import EsperError
from esper.oona import Backlog, Bus, CircuitBreaker, Counters

_LOG = logging.getLogger(__name__)

BACKLOG_SECONDS = 15.0


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


class BacklogCollector(Collector):
    """``esper_queue_waiting`` and ``esper_queue_dead`` of every subscription; asked of the broker now and then only."""

    def __init__(self, bus: Bus, seconds: float = BACKLOG_SECONDS) -> None:
        self._bus, self._seconds = bus, seconds
        self._lock = threading.Lock()
        self._at, self._seen = float("-inf"), list[Backlog]()

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``; what can't be had now is left out."""
        with self._lock:
            if time.monotonic() >= self._at + self._seconds:
                self._at = time.monotonic()
                try:
                    self._seen = self._bus.backlog()
                except EsperError as error:
                    _LOG.warning("backlog: %s", error)
                    self._seen = []
            seen = self._seen
        labels = ("topic", "subscription")
        waiting = GaugeMetricFamily("esper_queue_waiting", "Messages not answered for yet.", labels=labels)
        dead = GaugeMetricFamily("esper_queue_dead", "Dead letters.", labels=labels)
        for each in seen:
            waiting.add_metric((each.topic, each.subscription), each.ready + each.open)
            dead.add_metric((each.topic, each.subscription), each.dead)
        yield from (waiting, dead)

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the broker."""
        return []


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
