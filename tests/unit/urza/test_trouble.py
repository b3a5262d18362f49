"""The library when something else goes wrong: no space, no rights, no lock, no file of ours."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.errors import LibraryError, RunFailed, StorageFull
from esper.urza import (
    BlobCorrupt,
    BlobMissing,
    LibraryBusy,
    LibraryFull,
    LibraryUnavailable,
    SqlLibrary,
    State,
)
from esper.urza.database import Database


def test_no_space_left_in_the_database_is_said_and_nothing_is_lost(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path
) -> None:
    one = sample()
    one.enter(library)

    def small(connection: sqlite3.Connection, record: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    from sqlalchemy import event

    library.close()
    event.listen(library._database.engine, "connect", small)

    def fill() -> None:
        for factor in range(2, 200):
            sample(factor).enter(library)

    with pytest.raises(LibraryFull, match="no space left") as failure:
        fill()
    assert isinstance(failure.value, StorageFull)
    assert isinstance(failure.value, RunFailed)
    again = SqlLibrary.open(tmp_path / "library")
    assert again.record(one.id).state is State.PENDING_BUILD
    assert again.reject(one.id, "still writable") is State.REJECTED
    again.close()


def test_no_space_left_for_blobs_leaves_no_row(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sample()
    one.enter(library)
    directory = one.write(tmp_path / "work", blobs=3)
    synced = []
    real = os.fsync

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LibraryFull, match="no space left"):
        library.built(one.id, directory)
    monkeypatch.undo()
    assert library.record(one.id).state is State.PENDING_BUILD
    assert library.files(one.id) == []
    assert library.built(one.id, directory) is State.BUILT


def test_no_space_left_to_fetch_leaves_nothing(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sample()
    one.enter(library)
    library.built(one.id, one.write(tmp_path / "work"))
    real = Path.open

    def full(path: Path, mode: str = "r", *rest: Any) -> Any:
        if "w" in mode:
            raise OSError(28, "No space left on device")
        return real(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(LibraryFull):
        library.fetch(one.id, tmp_path / "cache")
    monkeypatch.undo()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_lock_held_too_long_names_the_wait(tmp_path: Path, sample: Callable[..., Any]) -> None:
    library = SqlLibrary.open(tmp_path, busy_seconds=0.1)
    other = sqlite3.connect(tmp_path / "urza.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LibraryBusy, match=r"0\.1 s"):
        sample().enter(library)
    assert library.records() == [], "readers do not wait"
    other.execute("ROLLBACK")
    sample().enter(library)
    other.close()
    library.close()


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 100, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_no_database_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "urza.sqlite").write_bytes(content)
    with pytest.raises(LibraryUnavailable, match=r"urza\.sqlite"):
        SqlLibrary.open(tmp_path)
    assert (tmp_path / "urza.sqlite").read_bytes() == content


def test_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "urza.sqlite").mkdir()
    with pytest.raises(LibraryUnavailable, match=r"urza\.sqlite"):
        SqlLibrary.open(tmp_path)


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("")
    with pytest.raises(LibraryUnavailable, match="library"):
        SqlLibrary.open(tmp_path / "library")


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@db/urza", "mysql://db/urza", "sqlite://", "sqlite:///:memory:", "nonsense://x", "://"],
)
def test_other_databases_are_refused_without_telling_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(LibraryError) as refusal:
        SqlLibrary(url, tmp_path / "blobs")
    assert "secret" not in str(refusal.value)


def test_a_url_names_the_file(tmp_path: Path) -> None:
    SqlLibrary(f"sqlite:///{tmp_path}/sub/my.db", tmp_path / "blobs").close()
    assert (tmp_path / "sub" / "my.db").is_file()


def test_a_library_of_somebody_else_can_be_read_but_says_why_it_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        root.chmod(0o755)
        SqlLibrary.open(root / "library").close()
        (root / "library").chmod(0o555)
        for path in (root / "library").iterdir():
            path.chmod(0o555 if path.is_dir() else 0o444)
        # Rights do not bind root: it becomes somebody else first.
        script = textwrap.dedent(
            """
            import os, sys
            from esper.urza import LibraryUnavailable, SqlLibrary
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            try:
                library = SqlLibrary.open(sys.argv[1])
                library.approve("x")
            except LibraryUnavailable as error:
                print(error)
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(root / "library")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        (root / "library").chmod(0o755)
    assert "library" in done.stdout
    assert "check that" in done.stdout


def test_lost_and_damaged_blobs_are_told_apart_and_never_handed_out(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path
) -> None:
    one = sample()
    one.enter(library)
    library.built(one.id, one.write(tmp_path / "work"))
    blob = next(file for file in library.files(one.id) if file.name.startswith("blobs/"))
    path = tmp_path / "library" / "blobs" / blob.digest[:2] / blob.digest
    path.chmod(0o644)
    path.write_bytes(b"\0" * blob.size)
    with pytest.raises(BlobCorrupt, match="delete the file"):
        library.fetch(one.id, tmp_path / "cache")
    path.unlink()
    with pytest.raises(BlobMissing, match="built again"):
        library.fetch(one.id, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_blob_swept_between_put_and_row_is_put_again(
    library: SqlLibrary, sample: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sample()
    one.enter(library)
    directory = one.write(tmp_path / "work")
    other = SqlLibrary.open(tmp_path / "library")
    real = Database.writing

    def swept_first(self: Database) -> Any:
        monkeypatch.setattr(Database, "writing", real)
        assert other.sweep(older_than_seconds=-60).blobs > 0
        return real(self)

    monkeypatch.setattr(Database, "writing", swept_first)
    assert library.built(one.id, directory) is State.BUILT
    assert library.fetch(one.id, tmp_path / "cache").is_dir()
    other.close()


def test_the_offer_query_uses_its_index(library: SqlLibrary, sample: Callable[..., Any]) -> None:
    from esper.urza import offers

    for shape in (offers.Shape(True), offers.Shape(True, 2, 2, None), offers.Shape(True, 1, 1, 3)):
        asked = offers.question(shape).compile(dialect=library._database.engine.dialect)
        with library._database.reading() as connection:
            plan = " / ".join(
                row[3]
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", ("x",) * len(asked.positiontup))
            )
        assert "SEARCH artifacts USING INDEX ix_artifacts_offer" in plan
        # All it reads from its beginning to its end is what it found by then.
        assert "SCAN" not in plan.replace("SCAN hits", "")
