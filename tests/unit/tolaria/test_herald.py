"""News reach the bus after their commit, in order, however long it is away, and never keep anybody waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from esper.oona import BusFull, Inbox, InProcessBus
from esper.tolaria import herald as module
from esper.tolaria.herald import Herald, News
from leyline.messages import FieldReport, SystemStatePacket, TelemetryPacket
from leyline.topics import EPOCHS, FIELD_REPORTS, SEED_HEALTH
from people import RUN, Keys


class Shaky(InProcessBus):
    """A bus that can be away: then it takes ``room`` messages and confirms none."""

    def __init__(self) -> None:
        super().__init__()
        self.away, self.room = False, 2
        self.asked: list[str | None] = []

    def publish(self, topic: str, data: bytes, **more: Any) -> str:
        self.asked.append(more.get("message_id"))
        if self.away and self.room <= 0:
            raise BusFull(f"{topic}: the broker is away")
        self.room -= self.away
        return super().publish(topic, data, **more)

    def flush(self, timeout: float) -> int:
        if self.away:
            time.sleep(min(timeout, 0.02))
        return int(self.away)


@pytest.fixture
def bus() -> Shaky:
    return Shaky()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.05)


def epoch(number: int) -> News:
    return News(f"epoch-{number}", "tolaria", RUN, SystemStatePacket(run=RUN, epoch=number))


class Teller:
    """A herald with its journal, and who listens."""

    def __init__(
        self, bus: Shaky, keys: Keys, instance: str = "one", journal: list[dict[str, Any]] | None = None
    ) -> None:
        self.journal: list[dict[str, Any]] = [] if journal is None else journal
        self.herald = Herald(bus, keys.trainer, RUN, instance, lambda: list(self.journal))
        self.inbox = Inbox(bus.subscribe(EPOCHS, f"watcher-{instance}"), keys.ring)
        self.heard: list[tuple[str, int]] = []

    def commit(self, *numbers: int) -> None:
        for number in numbers:
            self.journal.append({"commit": number, "news": [epoch(number).to_dict()]})
            self.herald.release(number, self.journal[-1]["news"])

    def listen(self) -> list[int]:
        while self.inbox.take(
            lambda payload, opened, message: self.heard.append((message.message_id, payload.epoch)), 0.1
        ):
            continue
        return [number for _, number in self.heard]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_news_go_out_in_order_and_are_confirmed(bus: Shaky, keys: Keys) -> None:
    teller = Teller(bus, keys)
    teller.herald.open(0, 0)
    teller.commit(*range(1, 101))
    assert teller.herald.finish(20) == 0
    assert teller.herald.confirmed == 100
    assert teller.listen() == list(range(1, 101))
    teller.herald.close()


def test_a_bus_that_is_away_keeps_nobody_waiting_and_gets_everything_when_it_is_back(
    bus: Shaky, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 16)
    teller = Teller(bus, keys)
    teller.herald.open(0, 0)
    bus.away = True
    slowest = 0.0
    for number in range(1, 301):
        began = time.perf_counter()
        teller.commit(number)
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.5
    until(lambda: bool(teller.herald.problem))
    assert teller.herald.confirmed == 0
    assert teller.herald.behind == 300
    assert len(teller.herald._waiting) <= 16, "the rest waits in the journal"
    assert teller.herald.finish(0.1) == 300
    bus.away = False
    teller.commit(301)
    assert teller.herald.finish(20) == 0
    heard = teller.listen()
    assert sorted(set(heard)) == list(range(1, 302)), "nothing is lost"
    firsts = list(dict.fromkeys(heard))
    assert firsts == list(range(1, 302)), "and the order stays"
    assert len(dict(teller.heard)) == 301, "what came twice came under the same id"
    assert teller.herald.problem == ""
    teller.herald.close()


def test_a_resume_tells_what_nobody_has_confirmed(bus: Shaky, keys: Keys) -> None:
    one = Teller(bus, keys)
    one.herald.open(0, 0)
    one.commit(1, 2, 3)
    one.herald.finish(20)
    bus.away, bus.room = True, 0
    one.commit(4, 5, 6)
    one.herald.close()  # killed
    bus.away = False
    two = Teller(bus, keys, "two", one.journal)
    two.herald.open(confirmed=3, committed=6)
    two.commit(7)
    assert two.herald.finish(20) == 0
    assert two.listen() == [4, 5, 6, 7]
    assert [message_id for message_id, _ in two.heard] == ["epoch-4", "epoch-5", "epoch-6", "epoch-7"]
    two.herald.close()


def test_a_journal_without_news_is_nothing_to_tell(bus: Shaky, keys: Keys) -> None:
    teller = Teller(bus, keys, journal=[{"commit": 1}, {"commit": 2}])
    teller.herald.open(0, 2)
    assert teller.herald.finish(20) == 0
    assert bus.asked == []
    teller.herald.close()
    empty = Teller(bus, keys, "empty")
    empty.herald.open(0, 2)  # the journal was lost
    assert empty.herald.finish(20) == 0
    empty.herald.close()


def test_telemetry_may_be_lost_reports_may_not(bus: Shaky, keys: Keys) -> None:
    health = Inbox(bus.subscribe(SEED_HEALTH, "watcher"), keys.ring)
    reports = Inbox(bus.subscribe(FIELD_REPORTS, "urza"), keys.ring)
    teller = Teller(bus, keys)
    teller.herald.open(0, 0)
    report = News("report-1", "tamiyo", "mlp", FieldReport(run=RUN, seed_id="s"))
    fleeting = News("", "kasmina", RUN, TelemetryPacket(run=RUN))
    assert report.durable
    assert not fleeting.durable
    bus.away, bus.room = True, 0
    teller.journal.append({"commit": 1, "news": [report.to_dict()]})
    teller.herald.release(1, [report.to_dict()], [fleeting])
    time.sleep(0.1)
    bus.away = False
    assert teller.herald.finish(20) == 0
    assert reports.take(lambda *_: None, 5) is not None
    assert health.take(lambda *_: None, 0.1) is None
    teller.herald.close()


def test_an_outage_in_the_middle_loses_nothing_and_keeps_the_order(
    bus: Shaky, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 4)
    teller = Teller(bus, keys)
    teller.herald.open(0, 0)
    threading.Timer(0.05, lambda: setattr(bus, "away", True)).start()
    threading.Timer(0.3, lambda: setattr(bus, "away", False)).start()
    for number in range(1, 201):
        teller.commit(number)
        time.sleep(0.002)
    assert teller.herald.finish(20) == 0
    assert list(dict.fromkeys(teller.listen())) == list(range(1, 201))
    teller.herald.close()
