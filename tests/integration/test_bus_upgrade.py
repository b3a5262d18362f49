"""From one subscription for all pools to one for each hardware target, on a real broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from brokers import need_broker, settings_for
from buses import SILENCE, eventually, must_receive, refuse, take
from esper.oona import MAX_DELIVERIES
from esper.oona.pulsar import PulsarBus, PulsarSettings, provision
from leyline.topics import COMPILE, DAY, TOPICS, pool_subscription

HARDWARE, OTHER = "x86_64-avx512", "cuda-sm90"
POOL = pool_subscription(TOPICS[COMPILE], HARDWARE)
FORMER = "tezzeret"


def artifact(hardware: str, number: int = 0) -> str:
    return f"{number:016x}-{hardware}-fast-{'0' * 8}"


@pytest.fixture
def settings() -> PulsarSettings:
    made = settings_for(need_broker())
    provision(made, patience=60.0)
    return made


@pytest.fixture
def bus(settings: PulsarSettings) -> Iterator[PulsarBus]:
    opened = PulsarBus(settings)
    yield opened
    opened.close()


@pytest.fixture
def worker(settings: PulsarSettings) -> Iterator[PulsarBus]:
    """A bus of a process that may not ask the REST interface, as workers may not."""
    opened = PulsarBus(settings.model_copy(update={"admin_url": None}))
    yield opened
    opened.close()


def test_what_waited_for_the_pools_of_an_earlier_version_is_found_by_those_of_its_hardware(
    settings: PulsarSettings, bus: PulsarBus, worker: PulsarBus
) -> None:
    with bus.subscribe(COMPILE, FORMER) as before:
        for number, hardware in enumerate((HARDWARE, OTHER, HARDWARE)):
            bus.publish(COMPILE, bytes([number]), key=artifact(hardware, number))
        before.ack(must_receive(before))
        assert provision(settings) == [], "somebody still reads it"
    (removed,) = provision(settings)
    assert (removed.what, removed.after) == (f"subscription {COMPILE}/{FORMER}", "removed")
    assert provision(settings) == []
    with worker.subscribe(COMPILE, POOL, hardware=HARDWARE) as pool:
        # Also what the earlier version has answered for: who asks the library knows that it is done.
        assert {each.data for each in take(pool, 2)} == {b"\0", b"\2"}


def test_a_dead_letter_of_an_earlier_version_is_replayed_for_those_who_came_after(
    bus: PulsarBus, worker: PulsarBus
) -> None:
    pools = {each: worker.subscribe(COMPILE, f"tezzeret-{each}", hardware=each) for each in (HARDWARE, OTHER)}
    with bus.subscribe(COMPILE, FORMER) as before:
        bus.publish(COMPILE, b"x", key=artifact(HARDWARE), message_id="m")
        refuse(before, MAX_DELIVERIES)
    assert len(take(pools[HARDWARE], 1)) == 1
    (letter,) = bus.dead_letters(COMPILE)
    assert letter.subscription == FORMER
    bus.replay(letter.letter_id)
    again = must_receive(pools[HARDWARE])
    assert (again.message_id, again.data, again.delivery_count) == ("m", b"x", 1)
    assert pools[OTHER].receive(SILENCE) is None
    assert bus.dead_letters(COMPILE) == []


def test_what_has_run_out_is_not_handed_to_who_comes_late(settings: PulsarSettings, bus: PulsarBus) -> None:
    """The broker keeps it for a while beyond its time; for whoever was promised nothing it is over."""
    bus.publish(COMPILE, b"old", key=artifact(HARDWARE))
    assert bus.flush(30) == 0
    time.sleep(2.5)
    bus.publish(COMPILE, b"new", key=artifact(HARDWARE))
    assert bus.flush(30) == 0
    assert TOPICS[COMPILE].expiry == 7 * DAY
    hasty = PulsarBus(settings, TOPICS | {COMPILE: replace(TOPICS[COMPILE], retention=2)})
    with hasty.subscribe(COMPILE, POOL, hardware=HARDWARE) as pool:
        assert [each.data for each in take(pool, 1)] == [b"new"]
    hasty.close()


def test_others_work_is_passed_over_without_a_count_and_without_a_trace(bus: PulsarBus, worker: PulsarBus) -> None:
    with worker.subscribe(COMPILE, POOL, hardware=HARDWARE) as pool:
        for number in range(200):
            bus.publish(COMPILE, b"theirs", key=artifact(OTHER, number))
        bus.publish(COMPILE, b"ours", key=artifact(HARDWARE))
        assert [each.data for each in take(pool, 1)] == [b"ours"]

        def behind() -> list[int]:
            return [each.ready + each.open for each in bus.backlog() if each.subscription == POOL]

        eventually(lambda: behind() == [0])
    counted = worker.counters()
    assert sum(counted.delivered.values()) == sum(counted.acknowledged.values()) == 1
    assert not counted.redelivered
