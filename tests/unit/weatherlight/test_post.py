from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.oona import InProcessBus, Message, Subscription
from esper.weatherlight.post import (
    Post,
    interface_from_wire,
    interface_to_wire,
    strategy_from_wire,
    strategy_to_wire,
)
from leyline.errors import EnvelopeError, InterfaceError, LeylineError, ReplayedEnvelope, StaleEnvelope
from leyline.interface import Interface, Layout
from leyline.topics import COMPILE
from leyline.v1 import kernels_pb2 as wire

REQUEST = wire.KernelCompileRequest(kernel_artifact_id="a", blueprint="mlp", strategy=wire.STRATEGY_FAST)


def delivery(subscription: Subscription) -> Message:
    message = subscription.receive(0)
    assert message is not None
    return message


def test_what_is_sent_arrives_keyed_by_its_artifact() -> None:
    bus = InProcessBus()
    post, subscription = Post(bus), bus.subscribe(COMPILE, "tezzeret")
    identity = post.send(REQUEST, "weatherlight", "artifact-1")
    message = delivery(subscription)
    payload, opened = post.open(message)
    assert payload == REQUEST
    assert (message.message_id, message.key, opened.producer) == (identity, "artifact-1", "weatherlight")


def test_a_redelivery_opens_until_it_is_done() -> None:
    bus = InProcessBus()
    post, subscription = Post(bus), bus.subscribe(COMPILE, "tezzeret")
    post.send(REQUEST, "weatherlight", "a")
    message = delivery(subscription)
    assert post.open(message)[1].redelivery is False
    subscription.nack(message, "again")
    message = delivery(subscription)
    _, opened = post.open(message)
    assert opened.redelivery is True
    post.done(message, opened)
    with pytest.raises(ReplayedEnvelope):
        post.open(message)


def test_forged_and_foreign_messages_are_refused() -> None:
    bus = InProcessBus()
    post, other, subscription = Post(bus), Post(bus), bus.subscribe(COMPILE, "tezzeret")
    other.send(REQUEST, "weatherlight", "a")
    with pytest.raises(EnvelopeError):
        post.open(delivery(subscription))
    post.send(REQUEST, "weatherlight", "a")
    message = delivery(subscription)
    for at in range(0, len(message.data), 7):
        damaged = bytearray(message.data)
        damaged[at] ^= 1
        copy = Message(**{name: getattr(message, name) for name in Message.__slots__} | {"data": bytes(damaged)})
        with pytest.raises(LeylineError):
            post.open(copy)
    post.open(message)


def test_a_copy_published_again_is_a_replay() -> None:
    bus = InProcessBus()
    post, subscription = Post(bus), bus.subscribe(COMPILE, "tezzeret")
    post.send(REQUEST, "weatherlight", "a")
    message = delivery(subscription)
    post.open(message)
    bus.publish(COMPILE, message.data)
    with pytest.raises(ReplayedEnvelope):
        post.open(delivery(subscription))


def test_work_expires_after_a_week() -> None:
    now = [1_000_000.0]
    bus = InProcessBus()
    post, subscription = Post(bus, clock=lambda: now[0]), bus.subscribe(COMPILE, "tezzeret")
    post.send(REQUEST, "weatherlight", "a")
    message = delivery(subscription)
    now[0] += 6 * 86_400
    post.open(message)
    now[0] += 2 * 86_400
    with pytest.raises(StaleEnvelope):
        post.open(message)


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
