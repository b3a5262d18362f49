"""The service where it is more than the library: who may do what, one form of errors, limits, health, bytes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import services
from esper.urza import DirectoryBlobs, RemoteLibrary, S3Blobs, SqlLibrary, State
from esper.urza.client import TransportSettings, token_from_file
from esper.urza.errors import AccessDenied, BlobCorrupt, LibraryUnavailable, TooManyRequests
from libraries import a_report, bring_to, design, enter, places, validate, write_artifact
from services import problem

QUICK = TransportSettings(patience=0.3)


# Who may do what

ID = "0" * 16 + "-x86_64-fast-" + "0" * 8
DOORS: list[tuple[str, str, Any, set[str]]] = [
    ("GET", f"/api/v1/artifacts/{ID}/interface", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", "/api/v1/caller", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", "/api/v1/blueprints", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", "/api/v1/blueprints/x", None, {"reader", "trainer", "worker", "admin"}),
    ("PUT", "/api/v1/blueprints/x", {"ir": {}, "risk": 0.1}, {"trainer", "worker", "admin"}),
    ("PUT", "/api/v1/approvals/x", {"approved": True}, {"admin"}),
    ("GET", "/api/v1/lineage/x", None, {"reader", "trainer", "worker", "admin"}),
    ("POST", "/api/v1/kernels/query", {"interface": {}, "hardware": "x"}, {"reader", "trainer", "worker", "admin"}),
    ("POST", "/api/v1/artifacts", {}, {"trainer", "worker", "admin"}),
    ("GET", "/api/v1/artifacts", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", "/api/v1/counts", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", f"/api/v1/artifacts/{ID}", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", f"/api/v1/artifacts/{ID}/files", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", f"/api/v1/artifacts/{ID}/reports", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", f"/api/v1/artifacts/{ID}/history", None, {"reader", "trainer", "worker", "admin"}),
    ("GET", f"/api/v1/artifacts/{ID}/bundle", None, {"reader", "trainer", "worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/uploads", {}, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/built", {}, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/benchmark", None, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/certify", {}, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/reject", {"cause": "x"}, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/noisy", {"cause": "x"}, {"worker", "admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/retire", {"cause": "x"}, {"admin"}),
    ("POST", f"/api/v1/artifacts/{ID}/retry", {"cause": "x"}, {"admin"}),
    ("PUT", "/api/v1/blobs/" + "0" * 64, b"x", {"worker", "admin"}),
    ("GET", "/api/v1/blobs/" + "0" * 64, None, {"reader", "trainer", "worker", "admin"}),
    ("POST", "/api/v1/field-reports", {}, {"trainer", "admin"}),
    ("GET", "/api/v1/field-reports", None, {"reader", "trainer", "worker", "admin"}),
    ("POST", "/api/v1/leases", {}, {"trainer", "admin"}),
    ("POST", "/api/v1/leases/release", {"run": "nobody's"}, {"trainer", "admin"}),
    ("GET", "/api/v1/leases", None, {"reader", "trainer", "worker", "admin"}),
    ("POST", "/api/v1/collections", {}, {"admin"}),
]


def ask(client: httpx.Client, method: str, path: str, body: Any, **more: Any) -> httpx.Response:
    return client.request(
        method, path, **({"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}),
        **more,
    )  # fmt: skip


def test_every_path_lets_in_who_it_should_and_nobody_else(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for role in ("reader", "trainer", "worker", "admin", ""):
            held = {"Authorization": f"Bearer {services.token(role or 'nothing')}"}
            for method, path, body, allowed in DOORS:
                answer = ask(client, method, path, body, headers=held)
                denied = answer.status_code == 403
                # A malformed body may be noticed first; what matters is that nobody gets further who must not.
                assert denied or answer.status_code == 422 or role in allowed, (role, method, path, answer.text)
                assert not (denied and role in allowed), (role, method, path, answer.text)
                assert answer.status_code < 500, answer.text


def test_the_doors_are_all_there_are(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    described = {
        (method.upper(), re.sub(r"\{[^}]*\}", "*", path))
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/api/")
    }
    known = {
        (method, re.sub(rf"{ID}|/x$|{'0' * 64}", lambda found: "/*" if found[0] == "/x" else "*", path))
        for method, path, _, _ in DOORS
    }
    assert described == known


@pytest.mark.parametrize("header", ["", "Bearer", "Basic abc", "Bearer a.b.c", "bearer \xff"])
def test_without_a_token_nothing_is_said_but_that(address: str, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    for method, path, body, _ in DOORS:
        answer = httpx.request(
            method, address + path, headers=headers, json=body if not isinstance(body, bytes) else {}
        )
        assert problem(answer) == (401, "AccessDenied")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_only_an_admin_approves_while_registering(address: str) -> None:
    trainer = RemoteLibrary(address, services.token("trainer"))
    trainer.register_blueprint("mlp", design(), 0.3)
    with pytest.raises(AccessDenied, match="admin"):
        trainer.register_blueprint("mlp", design(), 0.3, approved=True)
    assert trainer.blueprint("mlp").approved is False
    trainer.close()


def test_while_the_issuer_is_away_nobody_gets_in(library: SqlLibrary, tmp_path: Path) -> None:
    with services.running(library, jwks_missing=True) as address:
        answer = httpx.get(f"{address}/api/v1/blueprints", headers={"Authorization": f"Bearer {services.token()}"})
        assert problem(answer) == (503, "LibraryUnavailable")
        assert answer.headers["retry-after"] == "1"
        ready = httpx.get(f"{address}/readyz")
        assert (ready.status_code, ready.json()["keys"], ready.json()["database"]) == (503, "KeysUnavailable", "ok")


# What it makes of bad input


@pytest.mark.parametrize(("method", "path", "content", "expected"), [
    ("GET", "/nowhere", None, (404, "NotFound")),
    ("DELETE", "/api/v1/blueprints", None, (405, "MethodNotAllowed")),
    ("POST", "/api/v1/kernels/query", b"", (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b"{", (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b"[" * 100_000, (400, "BadRequest")),
    ("POST", "/api/v1/kernels/query", b"\xff\xfe", (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b"1" * 5000, (400, "BadRequest")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {}, "hardware": "x", "surprise": 1}', (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {}, "hardware": "x"}', (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {"layout": "vector", "width": 16}, "hardware": "x", '
     b'"max_risk": NaN}', (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {"layout": "vector", "width": 16}, "hardware": "\\u0000"}',
     (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {"layout": "vector", "width": 16}, "hardware": "\\ud800"}',
     (422, "InvalidEntry")),
    ("POST", "/api/v1/kernels/query", b'{"interface": {"layout": "vector", "width": 16}, "hardware": "x", '
     b'"tags": ["\' OR 1=1 --"]}', (422, "InvalidEntry")),
    ("GET", "/api/v1/blueprints/..%2F..%2Fetc%2Fpasswd", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/blueprints/%00", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/artifacts/..%2F..%2Fx", None, (404, "NotFound")),
    ("GET", "/api/v1/artifacts/x'%20OR%201=1", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/artifacts?state=Nonsense", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/artifacts?after=%00", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/artifacts?limit=0", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/artifacts?limit=501", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/field-reports?after=99999999999999999999", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/blobs/..%2Fetc", None, (404, "NotFound")),
    ("GET", "/api/v1/blobs/xyz", None, (422, "InvalidEntry")),
    ("GET", "/api/v1/blobs/" + "0" * 64, None, (404, "BlobMissing")),
    ("PUT", "/api/v1/blobs/" + "0" * 64, b"other bytes", (422, "InvalidEntry")),
    ("PUT", "/api/v1/blobs/..%2F..%2Fx", b"x", (404, "NotFound")),
])  # fmt: skip
def test_bad_input_is_a_precise_error(
    http: httpx.Client, method: str, path: str, content: bytes | None, expected: tuple[int, str]
) -> None:
    kind = {"Content-Type": "application/json"} if method == "POST" else {}
    answer = http.request(method, path, content=content, headers=kind)
    assert problem(answer) == expected, answer.text


def test_errors_do_not_repeat_what_was_sent(http: httpx.Client) -> None:
    answer = http.post("/api/v1/field-reports", json={"run": "secret" * 100, "token": "very-secret"})
    assert problem(answer) == (422, "InvalidEntry")
    assert "secret" not in answer.text


def test_too_much_is_refused_before_it_is_read(library: SqlLibrary) -> None:
    with services.running(library, max_json_bytes=2000, max_blob_bytes=4000) as address:
        held = {"Authorization": f"Bearer {services.token()}"}
        big = httpx.post(f"{address}/api/v1/artifacts", content=b"x" * 2001, headers=held)
        assert problem(big) == (413, "TooLarge")

        def unannounced() -> Iterator[bytes]:
            for _ in range(50):
                yield b"x" * 100

        assert problem(httpx.post(f"{address}/api/v1/artifacts", content=unannounced(), headers=held)) == (
            413,
            "TooLarge",
        )
        digest = hashlib.sha256(b"x" * 5000).hexdigest()
        blob = httpx.put(f"{address}/api/v1/blobs/{digest}", content=unannounced(), headers=held)
        assert problem(blob) == (413, "TooLarge")
        assert library.blobs.info(digest) is None
        assert (
            httpx.put(
                f"{address}/api/v1/blobs/{hashlib.sha256(b'y' * 3000).hexdigest()}", content=b"y" * 3000, headers=held
            ).status_code
            == 201
        )


def test_whoever_asks_too_often_waits_and_the_others_do_not(library: SqlLibrary) -> None:
    with services.running(library, requests_per_minute=5) as address:
        eager = RemoteLibrary(address, services.token(subject="eager"), QUICK)
        for _ in range(5):
            assert eager.blueprints() == []
        with pytest.raises(TooManyRequests, match="too often"):
            eager.blueprints()
        calm = RemoteLibrary(address, services.token(subject="calm"), QUICK)
        assert calm.blueprints() == []
        for client in (eager, calm):
            client.close()


def test_strangers_are_slowed_down_too(library: SqlLibrary) -> None:
    with services.running(library, requests_per_minute=10**6) as address, httpx.Client() as client:
        seen = {client.get(f"{address}/api/v1/blueprints").status_code for _ in range(310)}
    assert seen == {401, 429}


# Bytes


@pytest.fixture(params=["directory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RemoteLibrary, SqlLibrary]]:
    """A client of a service whose blobs are on its disk, or in a bucket it gives signed addresses of."""
    with places() as (url, bucket):
        blobs = DirectoryBlobs(tmp_path / "blobs") if request.param == "directory" else S3Blobs(bucket)
        library = SqlLibrary(url, blobs)
        with services.running(library, inline_bytes=100) as address:
            client = RemoteLibrary(address, services.token())
            yield client, library
            client.close()
        library.close()


def test_large_files_go_both_ways(remote: tuple[RemoteLibrary, SqlLibrary], tmp_path: Path) -> None:
    client, library = remote
    client.register_blueprint("mlp", design(), 0.3)
    identity = enter(client, "mlp", design())
    big = bytes(range(256)) * 4 * 5000
    directory = write_artifact(tmp_path / "work", identity, big)
    assert client.built(identity, directory) is State.BUILT
    fetched = client.fetch(identity, tmp_path / "cache")
    assert (fetched / "blobs" / hashlib.sha256(big).hexdigest()).read_bytes() == big
    assert library.blobs.get(hashlib.sha256(big).hexdigest()) == big


def test_what_is_damaged_is_never_handed_out(remote: tuple[RemoteLibrary, SqlLibrary], tmp_path: Path) -> None:
    client, library = remote
    client.register_blueprint("mlp", design(), 0.3)
    identity = enter(client, "mlp", design())
    big = b"kernel half" * 1000
    bring_to(client, tmp_path, identity, State.BUILT)
    other = write_artifact(tmp_path / "other", identity, big)
    library.reject(identity, "x")
    library.retry(identity, "y")
    client.built(identity, other)
    digest = hashlib.sha256(big).hexdigest()
    if isinstance(library.blobs, DirectoryBlobs):
        path = library.blobs.root / digest[:2] / digest
        path.chmod(0o644)
        path.write_bytes(b"X" + big[1:])
    else:
        assert isinstance(library.blobs, S3Blobs)
        bad = b"X" + big[1:]
        library.blobs.objects.put(f"blobs/{digest[:2]}/{digest}", hashlib.sha256(bad).hexdigest(), bad)
    quick = RemoteLibrary(client._service.url, services.token(), QUICK)
    with pytest.raises((BlobCorrupt, LibraryUnavailable)):
        quick.fetch(identity, tmp_path / "cache")
    assert not (tmp_path / "cache" / identity).exists()
    quick.close()


def test_an_upload_is_idempotent_and_checked(http: httpx.Client, library: SqlLibrary) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    assert http.put(f"/api/v1/blobs/{digest}", content=b"y").status_code == 422
    assert library.blobs.info(digest) is None
    assert [http.put(f"/api/v1/blobs/{digest}", content=b"x").status_code for _ in range(2)] == [201, 200]
    assert http.get(f"/api/v1/blobs/{digest}").content == b"x"


def test_an_artifact_whose_files_were_not_uploaded_is_not_built(http: httpx.Client, library: SqlLibrary) -> None:
    library.register_blueprint("mlp", design(), 0.3)
    identity = enter(library, "mlp", design())
    files = [
        {"name": name, "digest": hashlib.sha256(name.encode()).hexdigest(), "size": 5}
        for name in ("manifest.json", "signatures/built.json")
    ]
    assert problem(http.post(f"/api/v1/artifacts/{identity}/built", json={"files": files})) == (409, "BlobMissing")
    unsigned = http.post(f"/api/v1/artifacts/{identity}/built", json={"files": files[:1]})
    assert problem(unsigned) == (422, "InvalidEntry")
    assert "signatures/built.json" in unsigned.json()["error"]["message"]
    assert library.record(identity).state is State.PENDING_BUILD


def test_a_half_signed_artifact_is_not_certified(
    http: httpx.Client, address: str, library: SqlLibrary, tmp_path: Path
) -> None:
    client = RemoteLibrary(address, services.token())
    client.register_blueprint("mlp", design(), 0.3)
    identity = enter(client, "mlp", design())
    directory = bring_to(client, tmp_path, identity, State.PENDING_BENCHMARK)
    (directory / "report.json").write_bytes(b"{}")
    with pytest.raises(Exception, match=r"report\.json|validated\.json"):
        client.certify(identity, a_report(), directory)
    validate(directory, a_report())
    (directory / "signatures" / "validated.json").unlink()
    with pytest.raises(Exception, match=r"signatures/validated\.json"):
        client.certify(identity, a_report(), directory)
    assert library.record(identity).state is State.PENDING_BENCHMARK
    client.close()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../b", "a//b", ".hidden", "a\0", "a/b/c/d", "blobs"])
def test_hostile_file_names_are_refused(http: httpx.Client, library: SqlLibrary, name: str) -> None:
    library.register_blueprint("mlp", design(), 0.3)
    identity = enter(library, "mlp", design())
    digest = hashlib.sha256(b"x").hexdigest()
    http.put(f"/api/v1/blobs/{digest}", content=b"x")
    names = ["manifest.json", "signatures/built.json", "blobs/x", name]
    files = [{"name": each, "digest": digest, "size": 1} for each in names]
    assert problem(http.post(f"/api/v1/artifacts/{identity}/built", json={"files": files})) == (422, "InvalidEntry")


@pytest.mark.parametrize("files", [
    [{"name": "../../escaped", "digest": hashlib.sha256(b"x").hexdigest(), "size": 1, "content": "eA=="}],
    [{"name": "manifest.json", "digest": hashlib.sha256(b"x").hexdigest(), "size": 1, "content": "eQ=="}],
    [{"name": "manifest.json", "digest": hashlib.sha256(b"x").hexdigest(), "size": 1, "content": "?"}],
    [],
])  # fmt: skip
def test_a_client_trusts_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[Any]) -> None:
    client = RemoteLibrary("http://127.0.0.1:1", "token", QUICK)
    monkeypatch.setattr(client._service, "call", lambda *_, **__: {"files": files})
    with pytest.raises(Exception, match=r"name an artifact|digest|can't be read|no manifest"):
        client.fetch(ID, tmp_path / "cache")
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "cache" / ID).exists()
    client.close()


# Pages, health, traces, logs


def test_lists_come_in_pages(http: httpx.Client, library: SqlLibrary) -> None:
    for number in range(7):
        library.register_blueprint(f"b{number}", design(number + 1), 0.1)
        enter(library, f"b{number}", design(number + 1))
    for path, key in (("/api/v1/blueprints", "name"), ("/api/v1/artifacts", "artifact_id")):
        seen, after = [], ""
        for _ in range(4):
            page = http.get(path, params={"limit": 3, "after": after}).json()
            seen += [item[key] for item in page["items"]]
            if page["next"] is None:
                break
            after = page["next"]
        assert len(seen) == 7
        assert seen == sorted(seen)


def test_health_and_metrics_need_no_token(address: str) -> None:
    assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
    for _ in range(2):
        assert httpx.get(f"{address}/readyz").json() == {"database": "ok", "blobs": "ok", "keys": "ok"}
    httpx.get(f"{address}/api/v1/blueprints/some-name")
    text = httpx.get(f"{address}/metrics").text
    assert 'urza_requests_total{method="GET",route="/readyz",status="200"} ' in text
    assert "urza_request_seconds_bucket" in text
    assert 'urza_refused_total{cause="token"}' in text
    assert "some-name" not in text, "ids would make a series each"


def test_a_trace_is_carried_on(http: httpx.Client) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = http.get("/api/v1/blueprints/x", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert answer.headers["x-trace-id"] == trace
    assert answer.json()["error"]["trace_id"] == trace
    for wrong in ("", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "nonsense"):
        assert http.get("/api/v1/blueprints", headers={"traceparent": wrong}).headers["x-trace-id"] != "0" * 32


def test_a_client_waits_for_a_service_that_comes_back(library: SqlLibrary) -> None:
    with services.running(library) as address:
        client = RemoteLibrary(address, services.token(), TransportSettings(patience=20))
        real, calls = library.blueprints, []

        def busy(*arguments: Any) -> Any:
            calls.append(len(calls))
            if len(calls) < 4:
                raise LibraryUnavailable("the database is away")
            return real(*arguments)

        library.blueprints = busy  # type: ignore[method-assign]
        assert client.blueprints() == []
        assert len(calls) == 4
        client.close()


def test_a_client_says_who_is_away_and_never_its_token() -> None:
    client = RemoteLibrary("http://127.0.0.1:1", "very-secret", QUICK)
    with pytest.raises(LibraryUnavailable, match=r"127\.0\.0\.1:1") as failure:
        client.blueprints()
    assert "very-secret" not in f"{failure.value!r}{client!r}"
    client.close()


def test_a_token_file_is_read_each_time(address: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    client = RemoteLibrary(address, token_from_file(path), QUICK)
    with pytest.raises(AccessDenied, match="token"):
        client.blueprints()
    path.write_text("not a token")
    with pytest.raises(AccessDenied, match="JWT"):
        client.blueprints()
    path.write_text(services.token() + "\n")
    assert client.blueprints() == []
    client.close()


def test_the_document_describes_errors_and_bodies(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            if path.startswith("/api/"):
                reference = operation["responses"]["401"]["content"]["application/json"]["schema"]["$ref"]
                assert reference == "#/components/schemas/ErrorBody"


def test_the_client_imports_no_server() -> None:
    script = (
        "import sys; import esper.urza.client; "
        "print([name for name in ('sqlalchemy', 'fastapi', 'starlette', 'boto3', 'psycopg', 'torch') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
