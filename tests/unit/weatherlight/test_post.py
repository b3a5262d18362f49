from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.message import Message as Payload
from hypothesis import given
from hypothesis import strategies as st

from esper.oona import Bus, BusFull, BusUnavailable, InProcessBus, Outcome
from esper.oona.keyfiles import TrustedFolder, load_signer, make_key
from esper.tamiyo import FieldReport as Told
from esper.tamiyo import report_message
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.post import (
    Post,
    field_report_from_wire,
    interface_from_wire,
    interface_to_wire,
    strategy_from_wire,
    strategy_to_wire,
)
from leyline.envelope import Opened
from leyline.errors import EnvelopeError, InterfaceError
from leyline.interface import Interface, Layout
from leyline.topics import CATALOG, COMPILE, TOPICS
from leyline.v1 import kernels_pb2 as wire
from leyline.v1 import telemetry_pb2 as telemetry

REQUEST = wire.KernelCompileRequest(kernel_artifact_id="a", blueprint="mlp", strategy=wire.STRATEGY_FAST)


def take(post: Post, bus: InProcessBus, topic: str = COMPILE) -> tuple[Outcome | None, list[tuple[Payload, Opened]]]:
    """What an inbox makes of the next delivery."""
    seen: list[tuple[Payload, Opened]] = []
    with bus.subscribe(topic, "tezzeret") as subscription:
        return post.inbox(subscription).take(lambda payload, opened, _: seen.append((payload, opened)), 0), seen


def test_what_is_sent_arrives_keyed_by_its_artifact() -> None:
    bus = InProcessBus()
    post, seen = Post.in_process(bus), []
    with bus.subscribe(COMPILE, "tezzeret") as subscription:
        identity = post.send(REQUEST, "weatherlight", "artifact-1", run="run-1")
        taken = post.inbox(subscription).take(lambda *all_of_it: seen.append(all_of_it), 0)
    (payload, opened, message) = seen[0]
    assert (taken, payload) == (Outcome.HANDLED, REQUEST)
    assert (message.message_id, message.key, opened.producer, opened.run) == (
        identity, "artifact-1", "weatherlight", "run-1",
    )  # fmt: skip


def test_two_processes_speak_with_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("urza", "stranger"):
        make_key(tmp_path if name == "urza" else tmp_path / "elsewhere", name, ["urza"])
    ring, bus = TrustedFolder(tmp_path / "trusted"), InProcessBus()
    urza = Post(bus, load_signer(tmp_path / "urza.pem"), ring, instance="host-1")
    reader = Post(bus, load_signer(tmp_path / "elsewhere" / "stranger.pem"), ring)
    urza.send(REQUEST, "urza", "a")
    outcome, seen = take(reader, bus)
    assert outcome is Outcome.HANDLED
    assert seen[0][1].producer == "urza/host-1"
    reader.send(REQUEST, "urza", "a")  # signed by a key nobody trusts
    assert take(urza, bus) == (Outcome.REFUSED, [])


def test_another_process_s_messages_are_refused() -> None:
    bus = InProcessBus()
    post, other = Post.in_process(bus), Post.in_process(bus)
    other.send(REQUEST, "weatherlight", "a")
    assert take(post, bus) == (Outcome.REFUSED, [])


def test_a_letter_is_read_only_when_somebody_trusted_has_sent_it() -> None:
    bus = InProcessBus()
    post, other = Post.in_process(bus), Post.in_process(bus)
    with bus.subscribe(COMPILE, "tezzeret") as subscription:
        post.send(REQUEST, "weatherlight", "a")
        message = subscription.receive(0)
        assert message is not None
    assert post.peek(COMPILE, message.data) == REQUEST
    assert post.peek(COMPILE, message.data) == REQUEST, "reading is not handling"
    for topic, data in ((CATALOG, message.data), (COMPILE, message.data[:-1] + b"x"), (COMPILE, b"")):
        with pytest.raises(EnvelopeError):
            post.peek(topic, data)
    with pytest.raises(EnvelopeError):
        other.peek(COMPILE, message.data)


def test_work_expires_with_its_topic() -> None:
    now = [1_000_000.0]
    bus = InProcessBus()
    post = Post.in_process(bus, clock=lambda: now[0])
    post.send(REQUEST, "weatherlight", "a")
    post.send(REQUEST, "weatherlight", "b")
    now[0] += TOPICS[COMPILE].retention - 1
    assert take(post, bus)[0] is Outcome.HANDLED
    now[0] += 2
    assert take(post, bus)[0] is Outcome.REFUSED


class Full:
    """A bus that is full so many times, and then keeps what it got to itself so many times."""

    def __init__(self, full: int, unflushed: int = 0) -> None:
        self.full, self.unflushed, self.sent = full, unflushed, 0

    def publish(self, *_: object, **__: object) -> str:
        if self.full:
            self.full -= 1
            raise BusFull("full")
        self.sent += 1
        return "id"

    def flush(self, timeout: float) -> int:
        self.unflushed -= 1
        return int(self.unflushed >= 0)


def test_sending_patiently_waits_for_room_and_for_the_bus_to_have_it() -> None:
    quick = Backoff(first=0.001, longest=0.001, tries=4)
    bus = Full(3, unflushed=3)
    Post.in_process(cast(Bus, bus)).send_patiently(REQUEST, "urza", "a", threading.Event(), backoff=quick)
    assert (bus.sent, bus.unflushed) == (1, -1)
    with pytest.raises(BusFull):
        Post.in_process(cast(Bus, Full(4))).send_patiently(REQUEST, "urza", "a", threading.Event(), backoff=quick)


def test_who_is_stopped_still_says_what_is_done_but_does_not_wait() -> None:
    stop = threading.Event()
    stop.set()
    bus = Full(0)
    Post.in_process(cast(Bus, bus)).send_patiently(REQUEST, "urza", "a", stop)
    assert bus.sent == 1
    with pytest.raises(BusFull):
        Post.in_process(cast(Bus, Full(1))).send_patiently(REQUEST, "urza", "a", stop)


def test_who_is_stopped_while_the_bus_does_not_take_it_knows() -> None:
    stop = threading.Event()

    class Stopping(Full):
        def flush(self, timeout: float) -> int:
            stop.set()
            return 1

    with pytest.raises(BusUnavailable, match="1 messages"):
        Post.in_process(cast(Bus, Stopping(0))).send_patiently(REQUEST, "urza", "a", stop)


def told(**change: Any) -> Told:
    """What a controller reports."""
    usual = {"run": "run", "seed": "seed", "slot": "fc1", "blueprint": "mlp", "artifact_id": "artifact",
             "outcome": "CULLED", "reason": "no gain", "germinated_epoch": 2, "finished_epoch": 5}  # fmt: skip
    return Told(**(usual | change))


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        (told(pre_metric=0.0, post_metric=0.25, measurements={"x": 1.5}), (0.0, 0.25, {"x": 1.5})),
        (told(pre_loss=2.0, post_loss=1.5), (2.0, 1.5, {})),
        (told(pre_metric=0.5, pre_loss=2.0, post_loss=1.5, outcome="FOSSILIZED"), (2.0, 1.5, {})),
        (told(pre_loss=2.0), (None, None, {})),
    ],
)
def test_the_library_keeps_of_a_report_over_the_bus_what_it_keeps_of_one_beside_it(
    report: Told, kept: tuple[float | None, float | None, dict[str, float]]
) -> None:
    carried = telemetry.FieldReport.FromString(report_message(report, metric="accuracy").SerializeToString())
    arrived = field_report_from_wire(carried)
    assert (arrived.pre_metric, arrived.post_metric, dict(arrived.measurements)) == kept
    assert (arrived.message_id, arrived.run, arrived.seed, arrived.blueprint, arrived.artifact_id, arrived.outcome) == (
        report.id, "run", "seed", "mlp", "artifact", report.outcome,
    )  # fmt: skip


def test_an_outcome_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="9"):
        field_report_from_wire(telemetry.FieldReport(outcome=9))  # type: ignore[arg-type]


@given(
    width=st.integers(1, 8192),
    sizes=st.lists(st.integers(1, 32), min_size=2, max_size=2),
    layout=st.sampled_from(list(Layout)),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    low=st.integers(1, 100),
    more=st.integers(0, 1000),
)
def test_interfaces_survive_the_wire(
    width: int, sizes: list[int], layout: Layout, dtype: str, low: int, more: int
) -> None:
    interface = Interface(layout, width, tuple(sizes[: layout.trailing_rank]), dtype, (low, low + more))
    carried = wire.KernelInterface.FromString(interface_to_wire(interface).SerializeToString())
    assert interface_from_wire(carried) == interface
    assert interface_from_wire(carried).digest() == interface.digest()


def test_senseless_interfaces_and_strategies_are_refused() -> None:
    with pytest.raises(InterfaceError):
        interface_from_wire(wire.KernelInterface())
    with pytest.raises(ValueError, match="strategy"):
        strategy_from_wire(wire.STRATEGY_UNSPECIFIED)
    with pytest.raises(KeyError):
        strategy_to_wire("quick")
    for name in ("fast", "standard", "aggressive"):
        assert strategy_from_wire(strategy_to_wire(name)) == name
