"""The library on PostgreSQL when something goes wrong: each cause is told apart, and no password is told."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

import parts
import real_postgres
from esper.errors import LibraryError
from esper.urza import InvalidEntry, KernelQuery, LibraryBusy, LibraryUnavailable, SqlLibrary, State
from libraries import urza_database


@pytest.fixture
def url() -> Iterator[str]:
    with urza_database() as made:
        yield made


@pytest.fixture
def library(url: str, tmp_path: Path) -> Iterator[SqlLibrary]:
    opened = SqlLibrary(url, tmp_path / "blobs", busy_seconds=0.3)
    yield opened
    opened.close()


@pytest.mark.parametrize(("change", "says"), [
    ({"port": 1}, "can't be reached"),
    ({"password": "wrong-secret"}, "refuses the user or the password"),
    ({"database": "nobody_made_it"}, "no such database"),
    ({"host": "does-not-exist.invalid"}, "can't be reached"),
])  # fmt: skip
def test_what_keeps_it_from_opening_is_named_without_the_password(
    url: str, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    if "password" in change:
        change = {"username": "stranger", **change}
    wrong = make_url(url).set(**change)
    with pytest.raises(LibraryUnavailable, match=says) as failure:
        SqlLibrary(wrong.render_as_string(hide_password=False), tmp_path / "blobs")
    told = f"{failure.value} {failure.value!r}"
    assert "wrong-secret" not in told
    assert str(make_url(url).password) not in told
    assert "postgresql://" in told, "the server is named"


def test_a_url_that_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    for url in ("postgresql://me:secret@host:not-a-port/db", "mysql://me:secret@db/urza", "nonsense+x://me:secret@db"):
        with pytest.raises(LibraryError) as failure:
            SqlLibrary(url, tmp_path / "blobs")
        assert "secret" not in str(failure.value)


def test_a_row_locked_for_too_long_is_said(library: SqlLibrary, sample: Callable[..., Any], url: str) -> None:
    one = sample()
    one.enter(library)
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as other:
        other.execute("SELECT 1 FROM artifacts FOR UPDATE")
        with pytest.raises(LibraryBusy, match="another process"):
            library.reject(one.id, "wrong")
        assert library.record(one.id).state is State.PENDING_BUILD, "readers do not wait"
        two = sample(2)
        two.enter(library)
        assert library.reject(two.id, "wrong") is State.REJECTED, "nor do writers of other artifacts"
    assert library.reject(one.id, "wrong") is State.REJECTED


def test_hostile_text_is_refused_before_it_reaches_the_server(library: SqlLibrary, sample: Callable[..., Any]) -> None:
    interface = sample().interface
    for question in (
        KernelQuery(interface, "x86\0"),
        KernelQuery(interface, "x86_64", toolchain="\0"),
        KernelQuery(interface, "x86_64", blueprints=["a\0"]),
        KernelQuery(interface, "x86_64", blueprints=["\ud800"]),
    ):
        with pytest.raises(InvalidEntry):
            library.query(question)
    with pytest.raises(InvalidEntry):
        library.field_reports(run="\0")
    with pytest.raises(InvalidEntry):
        library.leases("\0")


def test_order_is_by_bytes_whatever_language_the_server_speaks(library: SqlLibrary, sample: Callable[..., Any]) -> None:
    for name in ("b", "A", "a-b", "ab", "a_c", "B", "a.b"):
        library.register_blueprint(name, sample(1).ir, 0.1)
    assert [record.name for record in library.blueprints()] == ["A", "B", "a-b", "a.b", "a_c", "ab", "b"]
    with library._database.reading() as connection:
        assert connection.execute(text("SELECT 'a' < 'B'")).scalar() is True, "this server sorts as people do"


def test_the_offer_query_uses_its_index(library: SqlLibrary, sample: Callable[..., Any]) -> None:
    from esper.urza import offers

    asked = offers.question(offers.Shape(True, 1, 1, None)).compile(dialect=library._database.engine.dialect)
    values = {
        "interface": hashlib.md5(b"7").hexdigest(), "hardware": "x86_64-avx2", "state": "Validated", "risk": 0.5,
        "toolchain": "01234567", "strategies_0": "fast", "tags_0": "high_speed",
    }  # fmt: skip
    digest = library.register_blueprint("mlp", sample().ir, 0.1)
    with library._database.writing() as session:
        many = session.connection()
        many.exec_driver_sql(
            "INSERT INTO artifacts SELECT 'a' || n, lpad(to_hex(n), 16, '0'), %s, md5((n / 10)::text), '{}', 'fast', "
            "'x86_64-avx2', '01234567', 'Validated', '', 1, 1, 1, 1, 1, 0.1, NULL, 0, 0, 'high_speed' "
            "FROM generate_series(1, 5000) n",
            (digest,),
        )
        many.exec_driver_sql("INSERT INTO artifact_tags SELECT artifact_id, 'high_speed' FROM artifacts")
        many.exec_driver_sql("ANALYZE")
    with library._database.reading() as connection:
        plan = " ".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {asked}", values))
    assert "ix_artifacts_offer" in plan
    assert "Seq Scan on artifact" not in plan


def test_a_server_killed_and_started_again_is_used_again(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, sample: Callable[..., Any]
) -> None:
    try:
        real_postgres.binaries()
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
    with parts.private("postgres") as home:
        facts = real_postgres.start(home)
        library = SqlLibrary(facts["url"], tmp_path / "blobs")
        one = sample()
        one.enter(library)
        assert library.query(KernelQuery(one.interface, one.hardware)) == []
        os.kill(parts.server_pid(home), signal.SIGKILL)
        parts.stop(home)
        with pytest.raises(LibraryUnavailable, match="is the server up"):
            library.query(KernelQuery(one.interface, one.hardware))
        with pytest.raises(LibraryUnavailable, match="is the server up"):
            library.reject(one.id, "wrong")
        real_postgres.begin(home, facts["port"])
        assert library.query(KernelQuery(one.interface, one.hardware)) == []
        assert library.record(one.id).state is State.PENDING_BUILD
        assert library.reject(one.id, "wrong") is State.REJECTED
        library.close()


def test_writers_of_one_artifact_take_turns_and_decide_it_once(
    url: str, sample: Callable[..., Any], tmp_path: Path
) -> None:
    libraries = [SqlLibrary(url, tmp_path / "blobs") for _ in range(4)]
    one = sample()
    one.enter(libraries[0])
    directory = one.write(tmp_path / "work")
    start, states = threading.Barrier(4), []

    def decide(library: SqlLibrary, number: int) -> None:
        start.wait()
        library.built(one.id, directory)
        states.append(library.reject(one.id, f"cause {number}"))

    threads = [threading.Thread(target=decide, args=(library, n)) for n, library in enumerate(libraries)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == [State.REJECTED] * 4
    history = libraries[0].history(one.id)
    assert [change.target for change in history][-1] is State.REJECTED
    assert sum(change.target is State.REJECTED for change in history) == 1
    for library in libraries:
        library.close()


def test_two_that_would_close_a_circle_of_parents_cannot_both(
    url: str, sample: Callable[..., Any], tmp_path: Path
) -> None:
    libraries = [SqlLibrary(url, tmp_path / "blobs") for _ in range(2)]
    a, b = sample(1), sample(2)
    for one in (a, b):
        libraries[0].register_blueprint(one.name, one.ir, 0.1)
    refused: list[InvalidEntry] = []
    start = threading.Barrier(2)

    def descend(library: SqlLibrary, child: Any, parent: Any) -> None:
        start.wait()
        time.sleep(0.01)
        try:
            library.register_blueprint(child.name, child.ir, 0.1, parents=[parent.name])
        except InvalidEntry as error:
            refused.append(error)

    threads = [threading.Thread(target=descend, args=pair) for pair in ((libraries[0], a, b), (libraries[1], b, a))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    for library in libraries:
        library.close()
