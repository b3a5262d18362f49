"""The connection to the broker, shared by everything a bus does; its failures in the bus's own terms."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import pulsar
from google.protobuf.message import Message as Payload
from pulsar.exceptions import (
    AlreadyClosed,
    AuthenticationError,
    AuthorizationError,
    ConsumerBusy,
    IncompatibleSchema,
    PulsarException,
    Timeout,
    TopicNotFound,
)
from pulsar.schema import ProtobufNativeSchema

from esper.errors import BadInput, BusError
from esper.oona.breaker import CircuitBreaker, CircuitOpen
from esper.oona.bus import BusClosed, BusUnavailable, SubscriptionBusy
from esper.oona.pulsar.settings import PulsarSettings

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

# Answers of a broker that is there: asking it again at once would bring the same one, and no breaker helps.
_ANSWERS = (AuthenticationError, AuthorizationError, TopicNotFound, ConsumerBusy, IncompatibleSchema, AlreadyClosed)


class _Away(Exception):
    """The broker did not answer; carries the client's error for the breaker."""


class Link:
    """Opens producers, consumers and readers. Thread-safe; the connection is made on first use and kept.

    A breaker stands before every opening: while the broker is away, one attempt at a time finds out whether it is back.
    Connections that were open reconnect by themselves, with back-off.
    """

    def __init__(self, settings: PulsarSettings, breaker: CircuitBreaker | None = None) -> None:
        self.settings = settings
        self.breaker = breaker or CircuitBreaker(
            "connection", failures=3, cooldown=0.5, longest_cooldown=5.0, counts=_Away
        )
        self._lock = threading.Lock()
        self._client: pulsar.Client | None = None
        self._closed = False

    def producer(
        self, topic: str, payload: type[Payload], *, send_timeout: float = 0.0, pending: int = 1000
    ) -> pulsar.Producer:
        """A producer of ``payload`` messages; ``send_timeout`` in seconds, 0 for never giving up."""
        return self.attempt(
            topic,
            lambda client: client.create_producer(
                self.settings.topic(topic),
                schema=ProtobufNativeSchema(payload),
                send_timeout_millis=round(send_timeout * 1000),
                max_pending_messages=pending,
                block_if_queue_full=False,
                # A subscription counts entries, not messages: batches would make every backlog figure wrong.
                batching_enabled=False,
                chunking_enabled=False,
            ),
        )

    def reader(self, topic: str) -> pulsar.Reader:
        """A reader of what a compacted topic holds, from its beginning."""
        return self.attempt(
            topic,
            lambda client: client.create_reader(
                self.settings.topic(topic), pulsar.MessageId.earliest, receiver_queue_size=100, is_read_compacted=True
            ),
        )

    def consumer(self, topic: str, name: str, **options: Any) -> pulsar.Consumer:
        """A consumer; see ``pulsar.Client.subscribe`` for ``options``."""
        return self.attempt(
            f"{topic}/{name}", lambda client: client.subscribe(self.settings.topic(topic), name, **options)
        )

    def check(self, topic: str) -> None:
        """Ask the broker for a topic; raises ``BusUnavailable`` or ``BusError`` with what is wrong."""
        self.attempt(topic, lambda client: client.get_topic_partitions(self.settings.topic(topic)))

    def attempt(self, what: str, action: Callable[[pulsar.Client], T]) -> T:
        """Do it behind the breaker, with the broker's refusals in the bus's terms.

        Raises:
            BusUnavailable: the broker is away, or lets this process not in; the text names its address.
            SubscriptionBusy: it has its consumer.
            BusError: the topic was not provisioned, or its schema is another one.
            BusClosed: the link was closed.
        """

        def guarded() -> T:
            try:
                return action(self._connected())
            except _ANSWERS:
                raise
            except Timeout as error:
                # The client tries again when the broker ends the connection, as it does with a token it does not know.
                seconds = self.settings.operation_timeout_seconds
                raise _Away(f"no answer within {seconds:g} s; is it there, and does it know this token?") from error
            except PulsarException as error:
                raise _Away(describe(error)) from error

        try:
            return self.breaker.call(guarded)
        except (_Away, CircuitOpen) as error:
            if self._closed:
                raise BusClosed(f"{what}: the bus is closed") from error
            raise BusUnavailable(f"broker {self.settings.service_url}: {error} (for {what})") from error
        except _ANSWERS as error:
            raise self._refusal(what, error) from error

    def close(self) -> None:
        """Close every connection; what waits on one is woken."""
        with self._lock:
            client, self._client, self._closed = self._client, None, True
        if client is not None:
            _end(client)

    def _connected(self) -> pulsar.Client:
        with self._lock:
            if self._closed:
                raise BusClosed("the bus is closed")
            if self._client is None:
                self._client = self._open()
                # The client's threads must be gone before the interpreter is; this runs at exit at the latest.
                weakref.finalize(self, _end, self._client)
            return self._client

    def _open(self) -> pulsar.Client:
        settings = self.settings
        if settings.tls_ca_file is not None and not settings.tls_ca_file.is_file():
            raise BadInput(f"tls_ca_file {settings.tls_ca_file}: not found")
        settings.current_token()  # a file that can't be read is said now, not by a thread of the client's
        secured = settings.token is not None or settings.token_file is not None
        return pulsar.Client(
            settings.service_url,
            # Called at every connection, so that a token that was renewed in its file is used.
            authentication=pulsar.AuthenticationToken(lambda: settings.current_token() or "") if secured else None,
            operation_timeout_seconds=max(1, round(settings.operation_timeout_seconds)),
            connection_timeout_ms=round(settings.connect_timeout_seconds * 1000),
            tls_trust_certs_file_path=None if settings.tls_ca_file is None else str(settings.tls_ca_file),
            tls_allow_insecure_connection=False,
            tls_validate_hostname=settings.tls_validate_hostname,
            logger=_client_log(),
        )

    def _refusal(self, what: str, error: Exception) -> BusError:
        url = self.settings.service_url
        if isinstance(error, AlreadyClosed):
            return BusClosed(f"{what}: the bus is closed")
        if isinstance(error, ConsumerBusy):
            return SubscriptionBusy(f"{what}: has a consumer already, or one of another kind")
        if isinstance(error, TopicNotFound):
            space = f"{self.settings.tenant}/{self.settings.namespace}"
            return BusError(f"{what}: broker {url} has no such topic in {space}; run `esper oona provision`")
        if isinstance(error, IncompatibleSchema):
            return BusError(f"{what}: is provisioned with another schema; run `esper oona provision` of this version")
        return BusUnavailable(f"broker {url}: refused this process: {describe(error)} (for {what}); check its token")


def describe(error: BaseException) -> str:
    """A client's error on one line: ``Pulsar error: TimeOut`` becomes ``TimeOut``."""
    text = str(error).removeprefix("Pulsar error: ").strip()
    return text if text and text != type(error).__name__ else type(error).__name__


def _end(client: pulsar.Client) -> None:
    try:
        client.close()
    except PulsarException as error:
        _LOG.debug("closing a connection: %s", describe(error))


def _client_log() -> logging.Logger:
    log = logging.getLogger("esper.oona.pulsar.client")
    if log.level == logging.NOTSET:
        # It says a page at every connection, and a line at every attempt while the broker is away; its threads need the
        # interpreter's lock to say it. What matters is said once, by those who use it.
        log.setLevel(logging.CRITICAL)
    return log
