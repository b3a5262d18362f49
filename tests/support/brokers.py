"""A broker for tests, in a namespace of the test's own; without one the test is skipped, and in CI it fails."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import parts
from esper.oona.pulsar import PulsarBus, PulsarSettings, load_settings, provision
from leyline.topics import TOPICS, Topic
from real_pulsar import Address, shared_broker

_RUN = f"t{secrets.token_hex(4)}"
_numbers = itertools.count(1)


def need_broker() -> Address:
    """The broker of this test run."""
    try:
        return shared_broker()
    except parts.PartMissing as error:
        parts.unavailable(str(error))


def settings_for(address: Address, **given: Any) -> PulsarSettings:
    """Settings with a namespace nobody else has, and little patience."""
    usual: dict[str, Any] = {
        "service_url": address.service_url,
        "admin_url": address.admin_url,
        "token": address.token or None,
        "namespace": f"{_RUN}-{next(_numbers)}",
        "redelivery_delay_seconds": 0.1,
        "flush_seconds": 2.0,
    }
    return load_settings(**(usual | given))


class Namespaces:
    """New namespaces of the shared broker, provisioned for a table of topics; one is always made ahead."""

    def __init__(self, topics: Mapping[str, Topic]) -> None:
        self._topics = topics
        self._maker = ThreadPoolExecutor(1)
        self._ahead: Future[str] | None = None

    def take(self) -> str:
        """The name of one nobody has used."""
        address = need_broker()
        current = self._ahead or self._maker.submit(self._make, address)
        self._ahead = self._maker.submit(self._make, address)
        return current.result()

    def _make(self, address: Address) -> str:
        settings = settings_for(address)
        provision(settings, self._topics, patience=60.0)
        return settings.namespace


def pulsar_bus(topics: Mapping[str, Topic] = TOPICS, namespace: str | None = None, **given: Any) -> PulsarBus:
    """A bus on the shared broker, in a new, provisioned namespace unless one is named."""
    settings = settings_for(need_broker(), **given, **({} if namespace is None else {"namespace": namespace}))
    if namespace is None:
        provision(settings, topics, patience=60.0)
    return PulsarBus(settings, topics)


class Gate:
    """A way to a broker that nobody can take until it is opened: before, its port refuses connections."""

    def __init__(self, url: str, address: str = "127.0.0.1") -> None:
        scheme, _, place = url.partition("://")
        host, _, port = place.partition(":")
        self._target = (host, int(port))
        self._listener = socket.socket()
        self._listener.bind((address, 0))
        self.url = f"{scheme}://{address}:{self._listener.getsockname()[1]}"
        self._opened = False

    def open(self) -> None:
        """Let everybody through from now on."""
        if not self._opened:
            self._opened = True
            self._listener.listen()
            threading.Thread(target=self._admit, daemon=True).start()

    def close(self) -> None:
        """Refuse new connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _admit(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = self._listener.accept()
                outside = socket.create_connection(self._target)
                for source, sink in ((inside, outside), (outside, inside)):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def behind_gate(
    topics: Mapping[str, Topic], namespace: str, **given: Any
) -> Iterator[tuple[Gate, PulsarBus, PulsarBus]]:
    """A closed gate, a bus behind it, and one in the same namespace that goes around it."""
    settings = settings_for(need_broker(), namespace=namespace, **given)
    gate = Gate(settings.service_url)
    behind = PulsarBus(settings.model_copy(update={"service_url": gate.url, "operation_timeout_seconds": 5.0}), topics)
    around = PulsarBus(settings, topics)
    try:
        yield gate, behind, around
    finally:
        behind.close()
        around.close()
        gate.close()
