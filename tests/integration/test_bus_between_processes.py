"""Several processes on one broker: who gets what, who is let in, and what a death leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pulsar
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pulsar.schema import ProtobufNativeSchema

from brokers import Gate, need_broker, settings_for
from certificates import make_certificates
from esper.errors import BadInput, BusError
from esper.oona import MAX_DELIVERIES, BusUnavailable, Message, Subscription, SubscriptionBusy
from esper.oona.pulsar import PulsarBus, PulsarSettings, provision
from esper.oona.tracing import context_of
from leyline.topics import (
    BENCHMARK,
    CATALOG,
    COMMANDS,
    COMPILE,
    EPOCHS,
    FIELD_REPORTS,
    SEED_HEALTH,
    TOPICS,
    TopicKind,
    pool_subscription,
)
from leyline.v1.bus_pb2 import Envelope

PATIENCE = 20.0
SILENCE = 0.5
HARDWARE = "x86_64-avx512"
COMPILERS, BENCHERS = (pool_subscription(TOPICS[topic], HARDWARE) for topic in (COMPILE, BENCHMARK))


@pytest.fixture(scope="module")
def settings() -> PulsarSettings:
    made = settings_for(need_broker())
    provision(made, hardware=[HARDWARE])
    return made


@pytest.fixture
def pair(settings: PulsarSettings) -> Iterator[tuple[PulsarBus, PulsarBus]]:
    """Two buses that know nothing of each other."""
    opened = PulsarBus(settings), PulsarBus(settings)
    yield opened
    for bus in opened:
        bus.close()


def must_receive(subscription: Subscription) -> Message:
    message = subscription.receive(PATIENCE)
    assert message is not None
    return message


def test_importing_the_bus_does_not_import_the_brokers_client() -> None:
    code = "import sys, esper.oona; sys.exit('pulsar' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_provisioning_again_changes_nothing(settings: PulsarSettings) -> None:
    assert provision(settings, hardware=[HARDWARE]) == []
    assert provision(settings, hardware=[HARDWARE], dry_run=True) == []


def test_provisioning_mends_what_was_changed_and_says_so(settings: PulsarSettings) -> None:
    headers = {"Authorization": f"Bearer {settings.current_token()}"}
    base = f"{settings.admin_url}/admin/v2"
    space = f"{settings.tenant}/{settings.namespace}"
    changed = {"retentionTimeInMinutes": 1, "retentionSizeInMB": 1}
    httpx.post(f"{base}/persistent/{space}/{EPOCHS}/retention", json=changed, headers=headers).raise_for_status()
    httpx.delete(f"{base}/persistent/{space}/{BENCHMARK}/subscription/{BENCHERS}", headers=headers).raise_for_status()
    httpx.post(f"{base}/namespaces/{space}/schemaValidationEnforced", json=False, headers=headers).raise_for_status()
    expected = {
        f"namespace {space}: schema_validation_enforced",
        f"subscription {BENCHMARK}/{BENCHERS}",
        f"topic {EPOCHS}: retention",
    }
    assert {change.what for change in provision(settings, hardware=[HARDWARE], dry_run=True)} == expected
    assert {change.what for change in provision(settings, hardware=[HARDWARE])} == expected
    assert provision(settings, hardware=[HARDWARE]) == []


def test_the_subscriptions_of_the_table_are_there_before_anything_is_published(
    pair: tuple[PulsarBus, PulsarBus],
) -> None:
    there = {(each.topic, each.subscription) for each in pair[0].backlog()}
    assert there >= {(topic.name, name) for topic in TOPICS.values() for name in topic.consumers}


def test_a_producer_that_does_not_speak_the_envelope_is_turned_away(settings: PulsarSettings) -> None:
    client = pulsar.Client(
        settings.service_url, authentication=pulsar.AuthenticationToken(settings.current_token() or "")
    )
    try:
        with pytest.raises(pulsar.exceptions.IncompatibleSchema):
            client.create_producer(settings.topic(COMPILE))
    finally:
        client.close()


class Liar(ProtobufNativeSchema):
    """Says that it speaks the envelope, and sends what it likes."""

    def encode(self, obj: bytes) -> bytes:
        return obj


@pytest.mark.parametrize("lie", [b"\xff\xffgarbage", b"\x08\x03"])
def test_what_only_claims_to_be_an_envelope_reaches_no_handler(
    lie: bytes, settings: PulsarSettings, pair: tuple[PulsarBus, PulsarBus]
) -> None:
    bus, _ = pair
    client = pulsar.Client(
        settings.service_url, authentication=pulsar.AuthenticationToken(settings.current_token() or "")
    )
    with bus.subscribe(BENCHMARK, BENCHERS) as subscription:
        client.create_producer(settings.topic(BENCHMARK), schema=Liar(Envelope)).send(lie)
        bus.publish(BENCHMARK, b"honest", key="a")
        message = must_receive(subscription)
        assert message.data == b"honest"
        subscription.ack(message)
    client.close()
    (letter,) = bus.dead_letters(BENCHMARK)
    assert (letter.data, letter.deliveries) == (lie, 0)
    assert "envelope" in letter.cause.lower()
    bus.discard(letter.letter_id)


def test_what_was_not_provisioned_is_said() -> None:
    bare = settings_for(need_broker(), namespace="nobody-made-this")
    bus = PulsarBus(bare)
    try:
        with pytest.raises(BusError, match="esper oona provision"):
            bus.subscribe(COMPILE, COMPILERS)
        with pytest.raises(BusError, match="esper oona provision"):
            bus.check()
    finally:
        bus.close()


def test_an_exclusive_subscription_has_one_consumer_among_all_processes(pair: tuple[PulsarBus, PulsarBus]) -> None:
    first, second = pair
    with first.subscribe(COMMANDS, "kasmina.run-1", key="run-1"):
        with pytest.raises(SubscriptionBusy):
            second.subscribe(COMMANDS, "kasmina.run-1", key="run-1")
        with pytest.raises(SubscriptionBusy):
            second.subscribe(COMMANDS, "kasmina.run-1", "shared", key="run-1")
    with second.subscribe(COMMANDS, "kasmina.run-1", key="run-1"):
        pass
    first.unsubscribe(COMMANDS, "kasmina.run-1")


def test_commands_to_one_run_keep_their_order(pair: tuple[PulsarBus, PulsarBus]) -> None:
    tamiyo, kasmina = pair
    with kasmina.subscribe(COMMANDS, "kasmina.run-2", key="run-2") as subscription:
        for number in range(60):
            tamiyo.publish(COMMANDS, b"%d" % number, key=f"run-{number % 3}")
        seen = []
        while len(seen) < 20:
            message = must_receive(subscription)
            if message.data == b"8" and message.delivery_count == 1:
                subscription.nack(message, "not yet")
                continue
            seen.append(int(message.data))
            subscription.ack(message)
        assert seen == list(range(2, 60, 3))
        assert subscription.receive(SILENCE) is None
    kasmina.unsubscribe(COMMANDS, "kasmina.run-2")


def test_work_is_shared_and_a_busy_process_keeps_one_at_most(pair: tuple[PulsarBus, PulsarBus]) -> None:
    busy, idle = pair
    with busy.subscribe(BENCHMARK, BENCHERS) as one, idle.subscribe(BENCHMARK, BENCHERS) as other:
        for number in range(10):
            busy.publish(BENCHMARK, b"%d" % number, key="a")
        held = must_receive(one)
        taken = []
        while (message := other.receive(2 * SILENCE)) is not None:
            other.ack(message)
            taken.append(message.data)
        assert len(taken) >= 8, "a busy process hoards work"
        one.ack(held)
        rest = {held.data, *taken}
        while len(rest) < 10:
            message = must_receive(one)
            one.ack(message)
            rest.add(message.data)
        assert rest == {b"%d" % number for number in range(10)}


def test_telemetry_of_a_run_goes_to_one_watcher_in_order(pair: tuple[PulsarBus, PulsarBus]) -> None:
    first, second = pair
    with first.subscribe(SEED_HEALTH, "nissa") as one, second.subscribe(SEED_HEALTH, "nissa") as other:
        for number in range(40):
            first.publish(SEED_HEALTH, b"%d" % number, key=f"run-{number % 4}")
        got: dict[str, list[tuple[int, int]]] = {}
        while sum(map(len, got.values())) < 40:
            for who, subscription in enumerate((one, other)):
                message = subscription.receive(0.2)
                if message is not None:
                    subscription.ack(message)
                    got.setdefault(str(message.key), []).append((who, int(message.data)))
        for seen in got.values():
            assert len({who for who, _ in seen}) == 1, "one run's telemetry went to two watchers"
            numbers = [number for _, number in seen]
            assert numbers == sorted(numbers)


KILLED = """
import os, signal, sys
from esper.oona.pulsar import PulsarBus, load_settings
bus = PulsarBus(load_settings())
message = bus.subscribe(sys.argv[1], sys.argv[2]).receive(30)
print(message.delivery_count, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_work_that_kills_every_worker_ends_as_a_dead_letter(
    settings: PulsarSettings, pair: tuple[PulsarBus, PulsarBus]
) -> None:
    """There is one worker at a time: the broker's own count would begin anew with each."""
    bus, _ = pair
    bus.publish(COMPILE, b"kills", key="a", message_id="killer")
    bus.publish(COMPILE, b"harmless", key="b")
    assert bus.flush(PATIENCE) == 0
    environment = {
        "PATH": os.environ["PATH"],
        "PULSAR_SERVICE_URL": settings.service_url,
        "ESPER_PULSAR_TOKEN": settings.current_token() or "",
        "ESPER_PULSAR_NAMESPACE": settings.namespace,
    }
    counts = []
    for _ in range(MAX_DELIVERIES):
        worker = subprocess.run(
            [sys.executable, "-c", KILLED, COMPILE, COMPILERS],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert worker.returncode == -signal.SIGKILL, worker.stderr
        counts.append(int(worker.stdout))
    assert counts == list(range(1, MAX_DELIVERIES + 1))
    with bus.subscribe(COMPILE, COMPILERS) as subscription:
        message = must_receive(subscription)
        assert message.data == b"harmless"
        subscription.ack(message)
    (letter,) = bus.dead_letters(COMPILE)
    assert (letter.message_id, letter.deliveries) == ("killer", MAX_DELIVERIES)
    assert "ended before it answered" in letter.cause
    bus.discard(letter.letter_id)


def test_dead_letters_are_everybodys(pair: tuple[PulsarBus, PulsarBus]) -> None:
    first, second = pair
    with first.subscribe(FIELD_REPORTS, "urza") as subscription:
        first.publish(FIELD_REPORTS, b"poison", key="b", properties={"run": "r"}, message_id="m")
        for _ in range(MAX_DELIVERIES):
            subscription.nack(must_receive(subscription), "naïve\ncause")
        (letter,) = second.dead_letters(FIELD_REPORTS)
        assert (letter.data, letter.cause, dict(letter.properties)) == (b"poison", "naïve\ncause", {"run": "r"})
        second.replay(letter.letter_id)
        assert first.dead_letters(FIELD_REPORTS) == []
        message = must_receive(subscription)
        assert (message.message_id, message.delivery_count) == ("m", 1)
        subscription.ack(message)


def test_the_catalogue_is_there_for_who_comes_late(pair: tuple[PulsarBus, PulsarBus]) -> None:
    first, late = pair
    for number in range(3):
        first.publish(CATALOG, b"%d" % number, key="artifact")
    assert first.flush(PATIENCE) == 0
    assert late.latest(CATALOG)["artifact"].data == b"2"


def test_a_compaction_keeps_the_last_of_each_key_and_no_forgotten_letter(
    settings: PulsarSettings, pair: tuple[PulsarBus, PulsarBus]
) -> None:
    bus, late = pair
    for number in range(4):
        bus.publish(CATALOG, b"%d" % number, key=f"compacted-{number % 2}")
    bus.publish(CATALOG, b"", key="compacted-empty")
    with bus.subscribe(EPOCHS, "compacted") as subscription:
        for data in (b"kept", b"dropped"):
            bus.publish(EPOCHS, data, key="run", message_id=data.decode())
            for _ in range(MAX_DELIVERIES):
                subscription.nack(must_receive(subscription), "no")
    bus.discard("dropped@compacted")
    assert bus.flush(PATIENCE) == 0
    headers = {"Authorization": f"Bearer {settings.current_token()}"}
    for topic in (CATALOG, f"{EPOCHS}-dead"):
        path = f"{settings.admin_url}/admin/v2/persistent/{settings.tenant}/{settings.namespace}/{topic}/compaction"
        httpx.put(path, headers=headers).raise_for_status()
        deadline = time.monotonic() + PATIENCE
        while (status := httpx.get(path, headers=headers).json()["status"]) != "SUCCESS":
            assert status != "ERROR"
            assert time.monotonic() < deadline, status
            time.sleep(0.1)
    held = {key: each.data for key, each in late.latest(CATALOG).items() if key.startswith("compacted")}
    assert held == {"compacted-0": b"2", "compacted-1": b"3", "compacted-empty": b""}
    assert [letter.data for letter in late.dead_letters(EPOCHS)] == [b"kept"]
    late.discard("kept@compacted")
    assert bus.dead_letters(EPOCHS) == []
    bus.unsubscribe(EPOCHS, "compacted")


def test_the_backlog_is_what_nobody_has_answered(pair: tuple[PulsarBus, PulsarBus]) -> None:
    first, second = pair
    with first.subscribe(FIELD_REPORTS, "behind") as subscription:
        for _ in range(5):
            first.publish(FIELD_REPORTS, b"x")
        message = must_receive(subscription)
        assert first.flush(PATIENCE) == 0

        def of(bus: PulsarBus) -> tuple[int, int]:
            (found,) = [each for each in bus.backlog() if (each.topic, each.subscription) == (FIELD_REPORTS, "behind")]
            assert found.kind is TopicKind.REPORT
            assert found.oldest_seconds > 0
            return found.ready, found.open

        assert of(first) == (4, 1)
        assert of(second) == (5, 0), "another process can't tell what is open with this one"
        subscription.ack(message)
    first.unsubscribe(FIELD_REPORTS, "behind")


def test_the_span_that_publishes_is_the_parent_of_the_one_that_handles(pair: tuple[PulsarBus, PulsarBus]) -> None:
    tracer = TracerProvider().get_tracer("test")
    with pair[1].subscribe(FIELD_REPORTS, "traced") as subscription:
        with tracer.start_as_current_span("epoch") as span:
            pair[0].publish(FIELD_REPORTS, b"x")
        message = must_receive(subscription)
        found = trace.get_current_span(context_of(message)).get_span_context()
        assert (found.trace_id, found.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
        subscription.ack(message)
    pair[1].unsubscribe(FIELD_REPORTS, "traced")


def test_the_buss_own_property_names_are_refused(pair: tuple[PulsarBus, PulsarBus]) -> None:
    with pytest.raises(BusError, match="esper-for"):
        pair[0].publish(EPOCHS, b"x", key="run", properties={"esper-for": "somebody"})


@pytest.mark.parametrize("who", ["nobody", "a stranger", "a forger"])
def test_who_has_no_right_token_is_not_let_in(settings: PulsarSettings, who: str) -> None:
    address = need_broker()
    if not address.stranger:
        pytest.skip("the broker that PULSAR_SERVICE_URL names has no such role")
    forged = f"{address.token.rpartition('.')[0]}.{'A' * 43}"
    token = {"nobody": None, "a stranger": address.stranger, "a forger": forged}[who]
    bus = PulsarBus(
        settings_for(address, namespace=settings.namespace, token=token, admin_url=None, operation_timeout_seconds=2.0)
    )
    with pytest.raises(BusUnavailable, match="token") as refused:
        bus.subscribe(COMPILE, COMPILERS)
    bus.close()
    with pytest.raises(BusUnavailable, match="check the token") as turned_away:
        provision(settings_for(address, namespace=settings.namespace, token=token))
    assert settings.service_url in str(refused.value)
    assert str(settings.admin_url) in str(turned_away.value)
    assert token is None or not any(token in str(each.value) for each in (refused, turned_away))


def test_tls_carries_messages_and_checks_the_host(settings: PulsarSettings, tmp_path: Path) -> None:
    address = need_broker()
    if not address.service_url_tls:
        pytest.skip("the broker that PULSAR_SERVICE_URL names was not started by this run")
    secure = settings_for(
        address, namespace=settings.namespace, service_url=address.service_url_tls, tls_ca_file=address.ca,
        operation_timeout_seconds=3.0,
    )  # fmt: skip

    def refusal(**other: object) -> Exception | None:
        bus = PulsarBus(secure.model_copy(update=other))
        try:
            bus.link.check(EPOCHS)
        except (BusUnavailable, BadInput) as error:
            return error
        finally:
            bus.close()
        return None

    bus = PulsarBus(secure)
    with bus.subscribe(FIELD_REPORTS, "tls") as subscription:
        bus.publish(FIELD_REPORTS, b"x")
        assert must_receive(subscription).data == b"x"
    bus.unsubscribe(FIELD_REPORTS, "tls")
    bus.close()
    # The certificate names 127.0.0.1 and localhost; the gate is another name for the same server.
    gate = Gate(address.service_url_tls, "127.0.0.2")
    gate.open()
    assert isinstance(refusal(service_url=gate.url), BusUnavailable)
    assert refusal(service_url=gate.url, tls_validate_hostname=False) is None
    gate.close()
    assert isinstance(refusal(tls_ca_file=make_certificates(tmp_path).ca), BusUnavailable)
    assert "tls_ca_file" in str(refusal(tls_ca_file=tmp_path / "nowhere.pem"))


def test_provisioning_goes_on_where_a_broker_that_was_not_ready_stopped_it() -> None:
    address = need_broker()
    failed = set[str]()

    class Unready(BaseHTTPRequestHandler):
        """Passes on, but every POST fails the first time, as without storage for schemas."""

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "POST" and self.path not in failed:
                failed.add(self.path)
                self.send_response(500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if self.headers[name]}
            answer = httpx.request(self.command, address.admin_url + self.path, content=body, headers=headers)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_DELETE = _pass

        def log_message(self, *_: object) -> None:
            """Nothing: what was asked is not what is looked at."""

    few = {name: TOPICS[name] for name in (COMPILE, EPOCHS)}
    with ThreadingHTTPServer(("127.0.0.1", 0), Unready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = settings_for(address, admin_url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(BusUnavailable, match="500"):
            provision(settings, few)
        before = len(failed)
        made = provision(settings, few, patience=60.0)
        server.shutdown()
    assert len(failed) > before, "it must have met more failures than the one that stopped it at first"
    assert provision(settings_for(address, namespace=settings.namespace), few) == []
    assert len({change.what for change in made}) == len(made), "a change is told once"


def test_a_broker_that_is_not_there_is_named() -> None:
    settings = settings_for(need_broker(), service_url="pulsar://127.0.0.1:9", admin_url="http://127.0.0.1:9")
    settings = settings.model_copy(update={"operation_timeout_seconds": 1.0, "flush_seconds": 0.0})
    bus = PulsarBus(settings)
    for action in (
        bus.check,
        lambda: bus.subscribe(COMPILE, "w"),
        bus.backlog,
        lambda: provision(settings, hardware=[HARDWARE]),
    ):
        with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:9"):
            action()
    bus.publish(COMPILE, b"x")
    assert bus.flush(0.1) == 1
    bus.close()
