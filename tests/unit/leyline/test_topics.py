from __future__ import annotations

import pytest

from leyline import topics
from leyline.topics import TOPICS, Ordering, SubscriptionType, TopicKind, role_of

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
