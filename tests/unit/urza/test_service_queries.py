"""A query over REST: answered past the framework when it is well-formed, refused by it when it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import urllib3

import services
from esper.errors import LibraryError
from esper.urza import KernelQuery, RemoteLibrary, SqlLibrary, State
from esper.urza.client import TransportSettings
from esper.urza.errors import LibraryUnavailable
from libraries import HARDWARE, TOOLCHAIN, VECTOR, a_report, bring_to, design, enter
from services import problem

QUICK = TransportSettings(patience=0.3)


def test_a_query_gives_reports_only_when_asked(http: httpx.Client, library: SqlLibrary, tmp_path: Path) -> None:
    library.register_blueprint("mlp", design(), 0.3)
    bring_to(library, tmp_path, enter(library, "mlp", design()), State.VALIDATED)
    body = {"interface": VECTOR.to_dict(), "hardware": HARDWARE, "toolchain": TOOLCHAIN}
    (short,) = http.post("/api/v1/kernels/query", json=body).json()["records"]
    (whole,) = http.post("/api/v1/kernels/query", json={**body, "reports": True}).json()["records"]
    assert "report" not in short
    assert whole == {**short, "report": a_report()}
    assert library.query(KernelQuery(VECTOR, HARDWARE))[0].report == a_report()


def test_a_query_is_the_same_however_it_is_written(
    address: str, http: httpx.Client, library: SqlLibrary, tmp_path: Path
) -> None:
    library.register_blueprint("mlp", design(), 0.3)
    odd = {"note": "half a pair \ud800", "number": 2**70, "tags": ["low_memory", "high_speed"]}
    bring_to(library, tmp_path, enter(library, "mlp", design()), State.VALIDATED, **odd)
    body = json.dumps({"interface": VECTOR.to_dict(), "hardware": HARDWARE, "reports": True}).encode()
    plain = {"Content-Type": "application/json"}
    answers = [
        http.post("/api/v1/kernels/query", content=body, headers=plain),
        http.post("/api/v1/kernels/query", content=body, headers={"Content-Type": "application/json; charset=utf-8"}),
        http.post("/api/v1/kernels/query", content=iter([body[:9], body[9:]]), headers=plain),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["records"][0]["tags"] == ["high_speed", "low_memory"]
    assert 'route="/api/v1/kernels/query",status="200"} ' in http.get("/metrics").text
    # What only Python's own reader takes, the client reads all the same.
    remote = RemoteLibrary(address, services.token(), QUICK)
    assert remote.query(KernelQuery(VECTOR, HARDWARE)) == library.query(KernelQuery(VECTOR, HARDWARE))
    assert remote.query(KernelQuery(VECTOR, HARDWARE))[0].report["number"] == 2**70
    remote.close()
    endless = http.post("/api/v1/kernels/query", content=iter([b"{"] + [b" " * (1 << 20)] * 5), headers=plain)
    assert problem(endless) == (413, "TooLarge")


def test_a_query_says_what_keeps_it_from_its_answer(
    http: httpx.Client, library: SqlLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"interface": VECTOR.to_dict(), "hardware": HARDWARE}
    assert problem(http.post("/api/v1/kernels/query", json={**body, "max_risk": 7})) == (422, "InvalidEntry")
    away = http.post("/api/v1/kernels/query", json={**body, "max_risk": "low"})
    assert problem(away) == (422, "InvalidEntry")
    assert "body.max_risk" in away.json()["error"]["message"]
    stranger = {"Authorization": f"Bearer {services.token('nobody')}"}
    assert problem(http.post("/api/v1/kernels/query", json=body, headers=stranger)) == (403, "AccessDenied")

    def fail(*_: Any) -> None:
        raise LibraryUnavailable("the database is away")

    monkeypatch.setattr(library, "offered", fail)
    away = http.post("/api/v1/kernels/query", json=body)
    assert problem(away) == (503, "LibraryUnavailable")
    assert away.headers["retry-after"] == "1"


@pytest.mark.parametrize("said", ["{", "[]", '{"records": [{}], "next": null}', '{"records": 7, "next": null}'])
def test_a_client_takes_nothing_else_for_an_answer(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = RemoteLibrary("http://127.0.0.1:1", "token", QUICK)
    answer = urllib3.HTTPResponse(said.encode(), status=200)
    monkeypatch.setattr(client._service, "_ask", lambda *_, **__: answer)
    with pytest.raises(LibraryError, match="is this the right URL"):
        client.query(KernelQuery(VECTOR, HARDWARE))
    client.close()
