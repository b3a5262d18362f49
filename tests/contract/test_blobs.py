"""What every blob store must do. A new adapter joins by one entry in ``ADAPTERS``."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import real_s3
from esper.urza import S3Blobs
from esper.urza.blobs import CHUNK, BlobStore, DirectoryBlobs
from esper.urza.errors import BlobMissing, InvalidEntry
from libraries import settings_of


@contextlib.contextmanager
def in_a_directory(tmp: Path) -> Iterator[BlobStore]:
    yield DirectoryBlobs(tmp / "blobs")


@contextlib.contextmanager
def in_s3(tmp: Path) -> Iterator[BlobStore]:
    with real_s3.bucket() as bucket:
        blobs = S3Blobs(settings_of(bucket))
        yield blobs
        blobs.close()


ADAPTERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[BlobStore]]] = {
    "directory": in_a_directory,
    "s3": in_s3,
}

HOSTILE = [
    "",
    "abc",
    "A" * 64,
    "g" * 64,
    "../" + "a" * 61,
    "/etc/passwd",
    "a" * 63,
    "a" * 65,
    "a" * 63 + "\n",
    "a" * 64 + "\n",
    "a" * 31 + "\0" + "a" * 32,
    "a" * 32 + "/" + "a" * 31,
]


@pytest.fixture(params=sorted(ADAPTERS))
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    with ADAPTERS[request.param](tmp_path) as store:
        yield store


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def present(blobs: BlobStore, digest: str) -> bool:
    return blobs.info(digest) is not None


def test_is_a_blob_store(blobs: BlobStore) -> None:
    assert isinstance(blobs, BlobStore)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=4096))
def test_gives_back_what_was_put(blobs: BlobStore, data: bytes) -> None:
    digest = digest_of(data)
    blobs.put(digest, data)
    assert present(blobs, digest)
    assert blobs.get(digest) == data


def test_a_large_blob_survives(blobs: BlobStore) -> None:
    data = bytes(range(256)) * 4096 * 8
    blobs.put(digest_of(data), data)
    assert blobs.get(digest_of(data)) == data


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7])
def test_files_are_stored_and_given_back_in_pieces(blobs: BlobStore, tmp_path: Path, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    path = tmp_path / "big"
    path.write_bytes(data)
    assert blobs.put(digest_of(data), path) is True
    assert blobs.put(digest_of(data), path) is False
    pieces = list(blobs.chunks(digest_of(data)))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= CHUNK for piece in pieces)
    known = blobs.info(digest_of(data))
    assert known is not None
    assert known.size == size


def test_a_file_with_another_digest_is_refused(blobs: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"y")
    for _ in range(2):
        with pytest.raises(InvalidEntry, match="nothing was stored"):
            blobs.put(digest_of(b"x"), path)
        assert blobs.info(digest_of(b"y")) is None
        if not present(blobs, digest_of(b"x")):
            blobs.put(digest_of(b"x"), b"x")  # also when the right bytes are there already
    assert blobs.get(digest_of(b"x")) == b"x"


def test_only_the_first_put_writes(blobs: BlobStore) -> None:
    assert blobs.put(digest_of(b"x"), b"x") is True
    assert blobs.put(digest_of(b"x"), b"x") is False
    assert [info.digest for info in blobs.list()] == [digest_of(b"x")]


def test_bytes_with_another_digest_are_refused(blobs: BlobStore) -> None:
    with pytest.raises(InvalidEntry, match="nothing was stored"):
        blobs.put(digest_of(b"x"), b"y")
    assert not present(blobs, digest_of(b"x"))
    assert list(blobs.list()) == []


def test_missing_blobs_say_so(blobs: BlobStore) -> None:
    digest = digest_of(b"never stored")
    assert not present(blobs, digest)
    assert blobs.delete(digest) is False
    with pytest.raises(BlobMissing, match=digest):
        blobs.get(digest)
    with pytest.raises(BlobMissing, match=digest):
        next(blobs.chunks(digest))


def test_lists_in_order_with_sizes(blobs: BlobStore) -> None:
    before = time.time() - 60
    contents = [b"a", b"bb", b"", b"cccc"]
    for data in contents:
        blobs.put(digest_of(data), data)
    infos = list(blobs.list())
    assert [info.digest for info in infos] == sorted(digest_of(data) for data in contents)
    assert {info.digest: info.size for info in infos} == {digest_of(data): len(data) for data in contents}
    assert all(before < info.modified < time.time() + 60 for info in infos)


def test_deleted_is_gone_and_can_come_back(blobs: BlobStore) -> None:
    digest = digest_of(b"x")
    blobs.put(digest, b"x")
    assert blobs.delete(digest) is True
    assert not present(blobs, digest)
    assert blobs.put(digest, b"x") is True
    assert blobs.get(digest) == b"x"


@pytest.mark.parametrize("digest", HOSTILE)
def test_hostile_digests_are_refused_everywhere(blobs: BlobStore, digest: str) -> None:
    for action in (
        lambda: blobs.put(digest, b"x"),
        lambda: blobs.get(digest),
        lambda: blobs.info(digest),
        lambda: blobs.delete(digest),
    ):
        with pytest.raises(InvalidEntry, match="digest"):
            action()


def test_many_writers_of_the_same_and_of_other_blobs(blobs: BlobStore) -> None:
    contents = [bytes([n]) * 10_000 for n in range(8)]
    written: list[bool] = []
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for data in contents:
                written.append(blobs.put(digest_of(data), data))
                assert blobs.get(digest_of(data)) == data
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(written) == 32
    assert sum(written) >= len(contents)
    assert len(list(blobs.list())) == len(contents)
