"""Publish and consume through a broker, sealed and verified, beside the bare client in the same run.

A producer and a consumer, each a process of its own, on one topic with one subscription; every message is verified,
guarded against replay, handled and acknowledged on its own. The bare client carries the same bytes as it does by
default, each stored on its own, without envelope, outbox, verification or bookkeeping. The sides take turns, block by
block, and a ratio is that of neighbouring blocks.

*Paced*: as many messages a second as a busy installation publishes; what counts is whether all of them get through and
how late. *Flat out*: as fast as the producer is let. Then the bus has messages sealed and stored in bundles, which the
bare client does with others' bytes only when it is told to: beside the promise stands what it carries in its own
batches, for then neither pays the broker for each message.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pulsar
from tests.bench.analysis import Estimate, median, paired_ratio
from tests.bench.report import ABOVE, Report, bounded, reported

import parts
from esper.oona import BusFull, Inbox
from esper.oona.pulsar import PulsarBus, PulsarSettings, load_settings, provision
from esper.oona.pulsar.admin import Admin
from leyline.envelope import draft
from leyline.keys import KeyRing, Signer
from leyline.messages import FieldReport, encode, type_of
from leyline.topics import FIELD_REPORTS
from real_pulsar import Broker

PAYLOAD = 512
RATE = 500
"""Messages a second when paced: a hundred runs with five messages a second each."""
TTL = 60.0
"""Seconds; a guard remembers a message that long."""
GOAL = 0.9
SUBSCRIPTION = "urza"
_SECRET = bytes(range(32))
BARE, SEALED, BATCHED = "bare client", "sealed and verified", "bare client in batches"


@dataclass(frozen=True)
class Block:
    """What one block of messages took. Times are in seconds."""

    messages: int
    seconds: float
    late: list[float]

    @property
    def rate(self) -> float:
        """Messages a second, from the first publish to the last acknowledgement."""
        return self.messages / self.seconds


class Side:
    """A producer and a consumer of one kind."""

    def __init__(self, produce: Callable[..., None], consume: Callable[..., None], settings: PulsarSettings) -> None:
        context = multiprocessing.get_context("spawn")
        given = {**settings.model_dump(), "token": settings.current_token()}
        self._ends: list[Connection] = []
        self._processes = []
        for work in (produce, consume):
            mine, other = context.Pipe()
            process = context.Process(target=work, args=(given, other), daemon=True)
            process.start()
            self._ends.append(mine)
            self._processes.append(process)
        for end in self._ends:
            if end.recv() != "ready":
                raise RuntimeError("a process of the benchmark did not start")

    def block(self, messages: int, rate: float | None) -> Block:
        """Send and take so many."""
        producer, consumer = self._ends
        consumer.send(messages)
        producer.send((messages, rate))
        began = producer.recv()
        ended, late = consumer.recv()
        return Block(messages, ended - began, late)

    def close(self) -> None:
        """End both."""
        for end, process in zip(self._ends, self._processes, strict=True):
            end.send(None)
            process.join(20)


def run(quick: bool = False) -> Report:
    """Measure on a broker of its own."""
    report = Report()
    blocks, paced, burst = (4, 500, 1000) if quick else (12, 1500, 4000)
    with parts.private("pulsar") as home, Broker(home) as broker:
        settings = load_settings(
            service_url=broker.address.service_url, admin_url=broker.address.admin_url, token=broker.address.token,
            namespace="bench",
        )  # fmt: skip
        provision(settings)
        bare = settings.model_copy(update={"namespace": "bare"})
        _prepare_bare(bare)
        with _sides(settings, bare) as sides:
            # The broker compiles its code while it runs: the first blocks would measure that.
            for side in sides.values():
                side.block(burst, None)
                side.block(paced, RATE)
            for what, count, rate in (("paced", paced, RATE), ("flat out", burst, None)):
                _compare(report, what, _alternate(sides, blocks, count, rate))
        with _side(_produce_batched, _consume_bare, bare) as batched:
            batched.block(burst, None)
            found = median([batched.block(burst, None).rate for _ in range(blocks)])
        report.rows.append(reported(f"messages a second, {BATCHED}, flat out", found, "/s"))
    return report


def _alternate(
    sides: dict[str, Side], blocks: int, count: int, rate: float | None
) -> dict[str, list[Block]]:  # fmt: skip
    found: dict[str, list[Block]] = {name: [] for name in sides}
    for number in range(blocks):
        names = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in names:
            found[name].append(sides[name].block(count, rate))
    return found


def _compare(report: Report, what: str, found: dict[str, list[Block]]) -> None:
    bare, sealed = found[BARE], found[SEALED]
    ratio = paired_ratio([each.rate for each in sealed], [each.rate for each in bare])
    note = f"{PAYLOAD} byte payload; the bare client carries {median([b.rate for b in bare]).value:.0f}/s"
    promise = f"messages a second through a broker, sealed and verified, against the bare client, {what}"
    report.rows.append(bounded(promise, f">= {GOAL}", ratio, "×", ABOVE, GOAL, note))
    for name, blocks in found.items():
        if what == "paced":
            late = _p99(blocks)
            report.rows.append(reported(f"99th percentile from publish to handled, {name}, {RATE}/s", late, "ms"))
        else:
            report.rows.append(reported(f"messages a second, {name}, {what}", median([b.rate for b in blocks]), "/s"))
        report.details[f"{name}, {what}"] = [
            {"rate": each.rate, "p50_ms": 1e3 * statistics.median(each.late), "p99_ms": _percentile(each.late)}
            for each in blocks
        ]


def _p99(blocks: list[Block]) -> Estimate:
    return median([_percentile(each.late) for each in blocks])


def _percentile(late: list[float]) -> float:
    return 1e3 * statistics.quantiles(late, n=100)[-1]


@contextmanager
def _sides(settings: PulsarSettings, bare: PulsarSettings) -> Iterator[dict[str, Side]]:
    with _side(_produce_bare, _consume_bare, bare) as plain, _side(_produce, _consume, settings) as sealed:
        yield {BARE: plain, SEALED: sealed}


@contextmanager
def _side(produce: Callable[..., None], consume: Callable[..., None], settings: PulsarSettings) -> Iterator[Side]:
    side = Side(produce, consume, settings)
    try:
        yield side
    finally:
        side.close()


def _prepare_bare(settings: PulsarSettings) -> None:
    with Admin(settings) as admin:
        admin.put(admin.namespace, {})
        admin.put(admin.topic("plain"))
        admin.put(admin.topic("plain", "subscription", SUBSCRIPTION), {"ledgerId": -1, "entryId": -1})


def _pace(messages: int, rate: float | None) -> Iterator[int]:
    began = time.perf_counter()
    for number in range(messages):
        if rate is not None:
            ahead = began + number / rate - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
        yield number


def _wanted() -> bool:
    """Whether the benchmark still runs: one that was killed leaves nobody behind."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


def _payload() -> bytes:
    return encode(FieldReport(run="bench", seed_id="seed", reason="x" * (PAYLOAD - 20)))


def _signer() -> Signer:
    return Signer.ed25519("bench", _SECRET)


def _produce(given: dict[str, Any], end: Connection) -> None:
    bus = PulsarBus(load_settings(**given))
    signer, payload, kind = _signer(), _payload(), type_of(FieldReport())
    sequence = 0
    end.send("ready")
    while (order := end.recv()) is not None:
        end.send(time.time())
        for _ in _pace(*order):
            sequence += 1
            message = draft(payload, kind, FIELD_REPORTS, "tamiyo", sequence, signer, time.time(), TTL)
            while True:
                try:
                    bus.publish(FIELD_REPORTS, message, key="blueprint")
                    break
                except BusFull:
                    if not _wanted():
                        return
                    time.sleep(0.001)
    bus.close()


def _consume(given: dict[str, Any], end: Connection) -> None:
    bus = PulsarBus(load_settings(**given))
    ring = KeyRing()
    ring.add(_signer(), producers=["tamiyo"], topics=[FIELD_REPORTS])
    inbox = Inbox(bus.subscribe(FIELD_REPORTS, SUBSCRIPTION), ring)
    end.send("ready")
    while (messages := end.recv()) is not None:
        late: list[float] = []
        while len(late) < messages:
            took = inbox.take(lambda _, opened, __, late=late: late.append(time.time() - opened.issued_at), 5.0)
            if took is None and not _wanted():
                return
        end.send((time.time(), late))
    if inbox.refused:
        raise RuntimeError(f"messages were refused: {dict(inbox.refused)}")
    bus.close()


def _client(given: dict[str, Any]) -> tuple[pulsar.Client, str]:
    settings = load_settings(**given)
    token = pulsar.AuthenticationToken(settings.current_token() or "")
    log = logging.getLogger("bare client")
    log.setLevel(logging.ERROR)
    return pulsar.Client(settings.service_url, authentication=token, logger=log), settings.topic("plain")


def _produce_batched(given: dict[str, Any], end: Connection) -> None:
    _produce_bare(given, end, batching_enabled=True)


def _produce_bare(given: dict[str, Any], end: Connection, batching_enabled: bool = False) -> None:
    client, topic = _client(given)
    producer = client.create_producer(
        topic,
        batching_enabled=batching_enabled,
        send_timeout_millis=0,
        block_if_queue_full=True,
        max_pending_messages=1024,
    )
    filling = bytes(PAYLOAD)
    end.send("ready")
    while (order := end.recv()) is not None:
        end.send(time.time())
        for _ in _pace(*order):
            producer.send_async(struct.pack(">d", time.time()) + filling, lambda *_: None, partition_key="blueprint")
    producer.flush()
    client.close()


def _consume_bare(given: dict[str, Any], end: Connection) -> None:
    client, topic = _client(given)
    consumer = client.subscribe(topic, SUBSCRIPTION, consumer_type=pulsar.ConsumerType.Shared, receiver_queue_size=200)
    end.send("ready")
    while (messages := end.recv()) is not None:
        late = []
        for _ in range(messages):
            message = consumer.receive(timeout_millis=30_000)
            late.append(time.time() - struct.unpack_from(">d", message.data())[0])
            consumer.acknowledge(message)
        end.send((time.time(), late))
    client.close()
