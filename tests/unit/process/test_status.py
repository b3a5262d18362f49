"""Health and metrics over HTTP, and preflight."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import cast

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from esper.errors import BadInput, LibraryError, RunFailed
from esper.oona import Backlog, Bus, CircuitBreaker, InProcessBus
from esper.process import PartsMissing, StatusServer, preflight, status, writable
from esper.process.metrics import BacklogCollector, BreakerCollector, BusCollector
from esper.process.status import Seldom
from leyline.topics import CATALOG


def failing() -> None:
    raise LibraryError("http://secret: is away")


def test_health_readiness_and_metrics_are_served_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOK_SECONDS", 0.0)
    registry, ready = CollectorRegistry(), {}
    Counter("things", "Things.", registry=registry).inc(3)
    with StatusServer(registry, {"work": lambda: None}, ready) as server:
        assert server.host == "127.0.0.1"
        address = f"http://{server.host}:{server.port}"
        assert httpx.get(f"{address}/readyz").status_code == 200
        ready["library"] = failing
        alive, not_ready, metrics = (
            httpx.get(f"{address}/{page}") for page in ("healthz", "readyz?verbose", "metrics")
        )
        assert (alive.status_code, alive.json()) == (200, {"work": "ok"})
        # The kind of the error only: anybody may ask.
        assert (not_ready.status_code, not_ready.json()) == (503, {"library": "LibraryError"})
        assert "things_total 3.0" in metrics.text
        assert httpx.get(f"{address}/other").status_code == 404
        assert httpx.post(f"{address}/healthz").status_code == 501
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_who_asks_often_is_told_what_was_seen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LOOK_SECONDS", 600.0)
    looked: list[int] = []
    with StatusServer(CollectorRegistry(), {"work": lambda: looked.append(1)}, {}) as server:
        for _ in range(5):
            httpx.get(f"http://127.0.0.1:{server.port}/healthz")
    assert len(looked) == 1


def test_what_bothers_somebody_is_looked_at_seldom() -> None:
    looked: list[int] = []

    def look() -> None:
        looked.append(1)
        if len(looked) == 1:
            failing()

    seldom = Seldom(look, 0.2)
    for _ in range(3):
        with pytest.raises(LibraryError):
            seldom()
    assert len(looked) == 1
    time.sleep(0.25)
    seldom()
    seldom()
    assert len(looked) == 2


def test_a_slow_caller_holds_nobody_up() -> None:
    with (
        StatusServer(CollectorRegistry(), {}, {}) as server,
        socket.create_connection((server.host, server.port)) as slow,
    ):
        slow.sendall(b"GET /healthz")
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz", timeout=5).status_code == 200


def test_an_address_that_is_taken_is_named() -> None:
    with StatusServer(CollectorRegistry(), {}, {}) as server, pytest.raises(BadInput, match=str(server.port)):
        StatusServer(CollectorRegistry(), {}, {}, port=server.port)


def test_traffic_and_breakers_are_counted() -> None:
    bus, breaker = InProcessBus(), CircuitBreaker("library", failures=1)
    bus.publish(CATALOG, b"x", key="a")
    with pytest.raises(LibraryError):
        breaker.call(failing)
    registry = CollectorRegistry()
    registry.register(BusCollector(bus))
    registry.register(BreakerCollector(lambda: [breaker]))
    assert registry.get_sample_value("esper_bus_messages_total", {"outcome": "published", "kind": "report"}) == 1
    assert registry.get_sample_value("esper_breaker_open", {"to": "library"}) == 1


def test_the_backlog_is_asked_for_now_and_then_and_may_be_away() -> None:
    bus, registry = InProcessBus(), CollectorRegistry()
    asked: list[int] = []

    class Watched:
        def backlog(self) -> list[Backlog]:
            asked.append(1)
            if len(asked) == 2:
                raise LibraryError("away")
            return bus.backlog()

    bus.subscribe(CATALOG, "urza")
    bus.publish(CATALOG, b"x", key="a")
    registry.register(BacklogCollector(cast(Bus, Watched()), 0.2))
    assert asked == [], "registering asks nobody"
    where = {"topic": CATALOG, "subscription": "urza"}
    for _ in range(3):
        assert registry.get_sample_value("esper_queue_waiting", where) == 1
    assert registry.get_sample_value("esper_queue_dead", where) == 0
    assert len(asked) == 1
    time.sleep(0.25)
    assert registry.get_sample_value("esper_queue_waiting", where) is None, "what can't be had is left out"


def test_preflight_names_everything_that_is_missing_and_tries_all_at_once(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)

    def meets() -> None:
        both.wait()

    def meets_and_fails() -> None:
        both.wait()
        failing()

    preflight([])
    (tmp_path / "file").write_text("")
    with pytest.raises(PartsMissing) as missing:
        preflight([("broker", meets_and_fails), ("library", meets), ("workdir", lambda: writable(tmp_path / "file"))])
    assert missing.value.parts == ("broker", "workdir")
    assert isinstance(missing.value, RunFailed)
    assert "is away" in str(missing.value)
    assert str(tmp_path / "file") in str(missing.value)


def test_a_mistake_in_preflight_is_not_taken_for_something_missing() -> None:
    with pytest.raises(ZeroDivisionError):
        preflight([("broker", lambda: 1 / 0)])


def test_a_work_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_page_behind_a_token_is_for_who_has_it(tmp_path: Path) -> None:
    secret = "s3cret"

    def renewed() -> str:
        return secret

    def unreadable() -> str:
        raise BadInput("status_token_file: gone")

    with StatusServer(CollectorRegistry(), {}, {}) as server:
        server.add("/local", lambda: {"run": "r"}, None)
        server.add("/guarded", lambda: {"run": "r"}, renewed)
        server.add("/broken", lambda: {"run": "r"}, unreadable)
        address = f"http://127.0.0.1:{server.port}"
        assert httpx.get(f"{address}/local").json() == {"run": "r"}

        def seen(page: str, token: str | None) -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return httpx.get(f"{address}{page}", headers=headers).status_code

        assert [seen("/guarded", token) for token in (None, "other", "s3cret")] == [401, 401, 200]
        secret = ""  # an empty file lets nobody in
        assert [seen("/guarded", token) for token in (None, "s3cret")] == [401, 401]
        assert seen("/broken", "s3cret") == 401
        assert httpx.get(f"{address}/healthz").status_code == 200
    with StatusServer(CollectorRegistry(), {}, {}, host="0.0.0.0") as server:
        server.add("/local", lambda: {"run": "r"}, None)
        assert httpx.get(f"http://127.0.0.1:{server.port}/local").status_code == 401, "no token, not only loopback"
