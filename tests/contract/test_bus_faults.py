"""Nothing lost and nothing acted on twice, whatever happens to messages on their way, on every message bus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from buses import PATIENCE, SILENCE, open_with_topics_of_runs
from esper.oona import Bus
from faults import EVERYTHING, Faults, FaultyBus
from leyline.topics import COMPILE, FIELD_REPORTS
from mail import Diary, Sender, report, request

MESSAGES = 40
ALONE = {name: Faults(**{name: 0.5}) for name in ("duplicate", "reorder", "delay", "replay", "corrupt", "lose_ack")}


@pytest.fixture(params=["in-process", "pulsar"])
def runs_bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    bus = open_with_topics_of_runs(request.param)
    yield bus
    bus.close()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("topic", [COMPILE, FIELD_REPORTS])
def test_everything_at_once(runs_bus: Bus, topic: str, seed: int) -> None:
    survive(FaultyBus(runs_bus, EVERYTHING, seed), topic)


@pytest.mark.parametrize("fault", sorted(ALONE))
def test_each_fault_alone(fault: str) -> None:
    bus = FaultyBus(open_with_topics_of_runs("in-process"), ALONE[fault], seed=7)
    survive(bus, COMPILE)
    assert bus.happened[fault] > 0
    assert sum(bus.happened.values()) == bus.happened[fault]


def test_the_same_seed_brings_the_same_faults() -> None:
    def faults(seed: int) -> Counter[str]:
        bus = FaultyBus(open_with_topics_of_runs("in-process"), EVERYTHING, seed)
        survive(bus, FIELD_REPORTS)
        return bus.happened

    assert faults(3) == faults(3)
    assert faults(3) != faults(4)


def survive(bus: FaultyBus, topic: str) -> None:
    """Send through the faults; everything is acted on once, and only recorded copies end as dead letters."""
    producer, make = ("weatherlight", request) if topic == COMPILE else ("tamiyo", report)
    sender = Sender(bus, producer)
    with bus.subscribe(topic, "urza") as subscription:
        diary = Diary(subscription, sender.ring())
        for number in range(MESSAGES):
            sender.send(make(number))
        assert bus.flush(PATIENCE) == 0
        diary.take_until(MESSAGES, 4 * PATIENCE)
        while diary.take(2 * SILENCE):
            continue
        assert set(diary.acted.values()) == {1}, "something was acted on twice"
        assert len(diary.acted) == MESSAGES
    letters = bus.dead_letters(topic)
    assert len(letters) == bus.happened["replay"]
    assert all(letter.cause.startswith("ReplayedEnvelope: ") for letter in letters)
