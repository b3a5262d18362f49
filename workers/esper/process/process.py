"""A process of the installation: told by settings, stopped by signals, seen through health and metrics.

settings = load_settings(TezzeretSettings, file)
with Process(settings, "tezzeret", roles=("worker",)) as process:
    ...                       # fork here what must be forked: no thread of the broker's client is there yet
    process.connect()         # tries everything, and opens bus and library
    while not process.stopping():
        ...
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import structlog
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from esper.errors import EsperError
from esper.logs import configure_logs
from esper.oona import BreakerState, CircuitBreaker, Message
from esper.oona.keyfiles import TrustedFolder, load_signer
from esper.oona.pulsar import PulsarBus
from esper.oona.tracing import context_of
from esper.process.metrics import BacklogCollector, BreakerCollector, BusCollector
from esper.process.preflight import Part, preflight
from esper.process.settings import ProcessSettings
from esper.process.status import Look, Seldom, StatusServer
from esper.process.stopping import Stopping
from esper.urza.client import RemoteLibrary, TransportSettings
from leyline.keys import KeyRing, Signer

_LOG = structlog.get_logger("esper.process")

PROBE = TransportSettings(patience=0.5, connect=1.0, read=2.0, connections=1)
PROBE_SECONDS = 10.0
"""How patient a look at the library's service is, and how long what it found holds."""


class NotReady(EsperError):
    """Something a process needs is not there now."""


class Process:
    """What every process has. A context manager, entered in the main thread.

    Args:
        settings: see ``ProcessSettings``.
        name: the role it signs as, such as ``tezzeret``.
        roles: the library must let it act in one of these.
        parts: what it needs besides broker, library and keys; tried by ``connect`` together with them.

    Attributes:
        producer: what its messages say they are by: ``<name>/<host>-<process id>``.
        stopping: asked whether to stop.
        registry: what ``/metrics`` shows.
        live, ready: what ``/healthz`` and ``/readyz`` look at; add to them.
        status: where those are served, once connected or entered.
        bus, library, signer, trusted: there once connected.
    """

    bus: PulsarBus
    library: RemoteLibrary
    signer: Signer
    trusted: KeyRing
    status: StatusServer

    def __init__(
        self, settings: ProcessSettings, name: str, *, roles: Iterable[str], parts: Iterable[Part] = ()
    ) -> None:
        self.settings, self.name = settings, name
        self.producer = f"{name}/{socket.gethostname()[:64]}-{os.getpid()}"
        self.stopping = Stopping()
        self.registry = CollectorRegistry()
        self.breakers: list[CircuitBreaker] = []
        self.live: dict[str, Look] = {}
        self.ready: dict[str, Look] = {"connected": self._connected}
        self._roles, self._parts = tuple(roles), list(parts)
        self._open = False
        self._stack = ExitStack()

    def connect(self) -> None:
        """Try everything this process needs, and open it.

        Raises:
            PartsMissing: names everything that can't be used, with the reason.
        """
        settings = self.settings
        self.bus = PulsarBus(settings.pulsar)
        self._stack.callback(self.bus.close)
        self.library = settings.library.open()
        self._stack.callback(self.library.close)
        preflight(
            [
                ("broker", self.bus.check),
                ("library", lambda: self.library.check(self._roles)),
                ("bus_key_file", self._load_signer),
                ("bus_trust_dir", self._load_trusted),
                *self._parts,
            ]
        )
        self.breakers.append(self.bus.link.breaker)
        self.registry.register(BusCollector(self.bus))
        if settings.pulsar.admin_url is not None:
            self.registry.register(BacklogCollector(self.bus))
        self.ready["broker"] = self._broker_there
        probe = settings.library.open(PROBE)
        self._stack.callback(probe.close)
        self.ready["library"] = Seldom(lambda: probe.check(self._roles), PROBE_SECONDS)
        self._open = True
        _LOG.info("connected", process=self.producer, broker=settings.pulsar.service_url, library=settings.library.url)

    @contextmanager
    def handling(self, message: Message) -> Iterator[None]:
        """While a message is handled: a span of its trace, and log lines that name it."""
        span = trace.get_tracer("esper").start_as_current_span(f"{self.name} {message.topic}", context_of(message))
        about = {"topic": message.topic, "message": message.message_id, "key": message.key or ""}
        with span, structlog.contextvars.bound_contextvars(**about, delivery=message.delivery_count):
            yield

    def __enter__(self) -> Self:
        configure_logs(self.settings.log_level)
        with ExitStack() as stack:
            stack.enter_context(self.stopping)
            self.registry.register(BreakerCollector(lambda: list(self.breakers)))
            self.status = stack.enter_context(
                StatusServer(
                    self.registry, self.live, self.ready, host=self.settings.http_host, port=self.settings.http_port
                )
            )
            self._stack = stack.pop_all()
        _LOG.info("started", process=self.producer, http_host=self.status.host, http_port=self.status.port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open = False
        self._stack.close()
        by = self.stopping.by
        _LOG.info(
            "ended",
            process=self.producer,
            signal=by.name if by else None,
            error=None if kind is None else kind.__name__,
        )

    def _load_signer(self) -> None:
        self.signer = load_signer(self.settings.bus_key_file)

    def _load_trusted(self) -> None:
        self.trusted = TrustedFolder(self.settings.bus_trust_dir)

    def _connected(self) -> None:
        if not self._open:
            raise NotReady("not connected yet, or no longer")

    def _broker_there(self) -> None:
        if self.bus.link.breaker.state is not BreakerState.CLOSED:
            raise NotReady("the broker does not answer")
