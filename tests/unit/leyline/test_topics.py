from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from esper.oona.checks import require_name
from leyline import topics
from leyline.errors import IdentityError
from leyline.identity import MAX_HARDWARE, ArtifactId, hardware_of
from leyline.topics import (
    BENCHMARK,
    COMPILE,
    TOPICS,
    Ordering,
    SubscriptionType,
    TopicKind,
    pool_subscription,
    role_of,
)

DESIGNED = {
    "control.kasmina.commands",
    "system.events.epoch",
    "telemetry.seed.health",
    "innovation.field_reports",
    "kernels.prefetch.request",
    "kernels.prefetch.ready",
    "kernels.prefetch.error",
    "kernels.catalog",
    "work.tezzeret.compile",
    "work.urabrask.benchmark",
    "policy.updates",
}


def test_the_table_holds_exactly_the_designed_topics() -> None:
    assert set(TOPICS) == DESIGNED
    constants = {value for name, value in vars(topics).items() if name.isupper() and isinstance(value, str)}
    assert constants == DESIGNED


@pytest.mark.parametrize("name", sorted(DESIGNED))
def test_every_row_is_complete(name: str) -> None:
    topic = TOPICS[name]
    assert topic.name == name
    assert topic.owner
    assert topic.key
    assert topic.summary.endswith(".")
    assert topic.retention >= topics.HOUR
    assert topic.payloads
    assert topic.producers


def test_every_message_type_has_exactly_one_topic() -> None:
    carried = [payload for topic in TOPICS.values() for payload in topic.payloads]
    assert len(carried) == len(set(carried))


def test_only_commands_need_freshness_and_only_telemetry_may_be_dropped() -> None:
    assert [t.name for t in TOPICS.values() if t.needs_freshness] == [topics.COMMANDS]
    assert [t.name for t in TOPICS.values() if t.may_drop] == [topics.SEED_HEALTH]


def test_order_is_never_asked_of_a_subscription_that_can_not_keep_it() -> None:
    for topic in TOPICS.values():
        if topic.ordering is Ordering.PER_KEY:
            assert topic.subscription is not SubscriptionType.SHARED, topic.name


def test_work_is_shared_between_workers() -> None:
    work = [topic for topic in TOPICS.values() if topic.kind is TopicKind.WORK]
    assert {topic.subscription for topic in work} == {SubscriptionType.SHARED}


def test_the_role_of_a_producer_is_what_stands_before_the_slash() -> None:
    assert role_of("tezzeret/pool-3") == "tezzeret"
    assert role_of("tamiyo") == "tamiyo"


HARDWARE = st.from_regex(r"[a-z][a-z0-9_]{0,9}(-[a-z0-9_]{1,9}){0,3}", fullmatch=True)
POOLS = [TOPICS[COMPILE], TOPICS[BENCHMARK]]


def test_pools_take_from_the_work_topics_of_the_pipeline_and_nobody_else_does() -> None:
    assert [each for each in TOPICS.values() if each.per_hardware] == POOLS
    assert not any(each.consumers for each in POOLS), "a subscription that nobody reads would grow for ever"
    assert pool_subscription(TOPICS[COMPILE], "x86_64-avx512") == "tezzeret-x86_64-avx512"
    assert pool_subscription(TOPICS[BENCHMARK], "cuda-sm90") == "urabrask-cuda-sm90"
    with pytest.raises(ValueError, match=topics.CATALOG):
        pool_subscription(TOPICS[topics.CATALOG], "x86_64")


@given(HARDWARE, HARDWARE)
@example("a", "a-a")
@example("a_a", "a-a")
@example("x-fast-deadbeef", "x")
@example("x" * MAX_HARDWARE, "x" * (MAX_HARDWARE - 1))
def test_distinct_hardware_has_distinct_subscriptions_with_names_that_a_bus_takes(one: str, other: str) -> None:
    assume(one != other)
    names = {pool_subscription(topic, target) for topic in POOLS for target in (one, other)}
    assert len(names) == 4
    assert not names & {name for topic in TOPICS.values() for name in (*topic.consumers, *topic.former)}
    for name in names:
        require_name(name)


@pytest.mark.parametrize(
    "hardware",
    ["", "-", "X86_64", "x86/64", "../x86", "x86\n", " x86", "x86 ", "x86%2f", "x86\x00", "x86--avx2", "x86-", "7x",
     "é", "１", "x" * (MAX_HARDWARE + 1), "a-" * 100_000, None, 7, b"x86", ["x86"]],
    ids=lambda each: repr(each)[:16],
)  # fmt: skip
def test_what_is_no_hardware_has_no_subscription(hardware: Any) -> None:
    with pytest.raises(IdentityError) as refused:
        pool_subscription(TOPICS[COMPILE], hardware)
    assert len(str(refused.value)) < 300
    assert len(str(refused.value).splitlines()) == 1


@given(st.text(max_size=200))
def test_whatever_is_asked_for_has_a_name_that_a_bus_takes_or_none(text: str) -> None:
    try:
        name = pool_subscription(TOPICS[COMPILE], text)
    except IdentityError:
        return
    require_name(name)
    assert name.removeprefix("tezzeret-") == text


@given(HARDWARE, st.sampled_from(["fast", "standard", "aggressive"]))
def test_the_hardware_of_an_artifact_is_read_from_its_id(hardware: str, strategy: str) -> None:
    assert hardware_of(str(ArtifactId("0" * 16, hardware, strategy, "f" * 8))) == hardware


@pytest.mark.parametrize(
    "text", [None, "", "artifact-1", "0" * 16 + "-x86_64-turbo-" + "0" * 8, 7, b"x", "a-" * 200_000]
)
def test_what_is_no_artifact_id_names_no_hardware(text: Any) -> None:
    assert hardware_of(text) is None
