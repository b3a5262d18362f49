"""Artifacts' files, in every kernel library."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.errors import LibraryError
from esper.urza import (
    InvalidEntry,
    Library,
    State,
    UnknownArtifact,
)
from libraries import (
    a_report,
    artifact_id,
    bring_to,
    design,
    validate,
    write_artifact,
)

# Files


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("state", [State.BUILT, State.VALIDATED])
def test_fetch_gives_the_same_files_back(library: Library, wanted: str, tmp_path: Path, state: State) -> None:
    directory = bring_to(library, tmp_path, wanted, state)
    fetched = library.fetch(wanted, tmp_path / "cache")
    assert fetched == tmp_path / "cache" / wanted
    assert contents(fetched) == contents(directory)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [wanted]
    assert {file.name: file.size for file in library.files(wanted)} == {
        name: len(data) for name, data in contents(directory).items()
    }


def test_an_artifact_without_blobs_keeps_its_empty_folders(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = write_artifact(tmp_path / "work", wanted)
    for blob in (directory / "blobs").iterdir():
        blob.unlink()
    library.built(wanted, directory)
    fetched = library.fetch(wanted, tmp_path / "cache")
    assert (fetched / "blobs").is_dir()
    assert contents(fetched) == contents(directory)


def test_fetch_repairs_a_damaged_copy_and_keeps_a_good_one(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.VALIDATED)
    fetched = library.fetch(wanted, tmp_path / "cache")
    inode = fetched.stat().st_ino
    assert library.fetch(wanted, tmp_path / "cache").stat().st_ino == inode
    for damage in (
        lambda: (fetched / "manifest.json").write_bytes(b"{}"),
        lambda: (fetched / "extra").write_bytes(b""),
        lambda: (fetched / "report.json").unlink(),
        lambda: (fetched / "link").symlink_to("/etc/passwd"),
    ):
        damage()
        assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [wanted]


def test_fetch_brings_a_copy_from_before_the_verdict_up_to_date(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.BUILT)
    library.fetch(wanted, tmp_path / "cache")
    library.begin_benchmark(wanted)
    validate(directory, a_report())
    library.certify(wanted, a_report(), directory)
    assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)


def test_many_fetches_at_once_give_one_directory(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.VALIDATED)
    found: list[dict[str, bytes]] = []
    errors: list[BaseException] = []

    def fetch() -> None:
        try:
            for _ in range(5):
                found.append(contents(library.fetch(wanted, tmp_path / "cache")))
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [contents(directory)] * 20


def test_nothing_to_fetch_before_it_is_built(library: Library, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownArtifact, match="PendingBuild"):
        library.fetch(wanted, tmp_path / "cache")


def spoil_link(directory: Path) -> None:
    (directory / "blobs" / "link").symlink_to("/etc/passwd")


def spoil_directory_link(directory: Path) -> None:
    (directory / "more").symlink_to("/etc")


def spoil_pipe(directory: Path) -> None:
    os.mkfifo(directory / "blobs" / "pipe")


def spoil_name(directory: Path) -> None:
    (directory / "blobs" / "..hidden").write_bytes(b"")


def spoil_dotfile(directory: Path) -> None:
    (directory / ".manifest.tmp").write_bytes(b"")


def spoil_depth(directory: Path) -> None:
    (directory / "a" / "b" / "c" / "d").mkdir(parents=True)


def spoil_count(directory: Path) -> None:
    for number in range(200):
        (directory / "blobs" / f"f{number}").write_bytes(b"")


def spoil_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def spoil_identity(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(json.dumps({"id": artifact_id(design(3))}).encode())


def spoil_json(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(b"[" * 100_000)


@pytest.mark.parametrize("spoil", [
    spoil_link, spoil_directory_link, spoil_pipe, spoil_name, spoil_dotfile, spoil_depth, spoil_count, spoil_manifest,
    spoil_identity, spoil_json,
])  # fmt: skip
def test_hostile_artifact_directories_are_refused(
    library: Library, wanted: str, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    directory = write_artifact(tmp_path / "work", wanted)
    spoil(directory)
    with pytest.raises(InvalidEntry):
        library.built(wanted, directory)
    assert library.record(wanted).state is State.PENDING_BUILD
    assert library.files(wanted) == []


def test_a_directory_that_is_not_there_is_an_error_with_its_name(library: Library, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="nowhere"):
        library.built(wanted, tmp_path / "nowhere")


def test_content_cannot_change_between_build_and_verdict(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    other = write_artifact(tmp_path / "other", wanted, b"another half")
    validate(other, a_report())
    with pytest.raises(InvalidEntry, match="changed after it was built"):
        library.certify(wanted, a_report(), other)
    assert library.record(wanted).state is State.PENDING_BENCHMARK


def test_the_report_inside_must_be_the_one_handed_in(library: Library, wanted: str, tmp_path: Path) -> None:
    directory = bring_to(library, tmp_path, wanted, State.PENDING_BENCHMARK)
    validate(directory, a_report(ratio=0.1))
    with pytest.raises(InvalidEntry, match=r"report\.json"):
        library.certify(wanted, a_report(ratio=0.9), directory)
    assert library.record(wanted).state is State.PENDING_BENCHMARK


def test_sweep_takes_only_what_no_artifact_names(library: Library, wanted: str, tmp_path: Path) -> None:
    bring_to(library, tmp_path, wanted, State.BUILT)
    library.reject(wanted, "wrong")
    library.retry(wanted, "again")
    directory = write_artifact(tmp_path / "again", wanted, b"another build")
    library.built(wanted, directory)
    assert library.sweep().blobs == 0, "what was stored a moment ago may still be waiting for its row"
    swept = library.sweep(older_than_seconds=0)
    assert swept.blobs == 2, "the first build's blob and manifest"
    assert swept.bytes > 0
    assert contents(library.fetch(wanted, tmp_path / "cache")) == contents(directory)
    assert library.sweep(older_than_seconds=0).blobs == 0
