from __future__ import annotations

import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from esper.urza.blobs import STALE_SECONDS, DirectoryBlobs
from esper.urza.errors import BlobCorrupt, LibraryFull, LibraryUnavailable

DATA = b"kernel half" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def stored(root: Path) -> Path:
    return root / DIGEST[:2] / DIGEST


def test_files_are_read_only_and_where_the_layout_says(tmp_path: Path) -> None:
    DirectoryBlobs(tmp_path).put(DIGEST, DATA)
    assert stat.S_IMODE(stored(tmp_path).stat().st_mode) == 0o444
    assert stored(tmp_path).read_bytes() == DATA
    assert list((tmp_path / ".incoming").iterdir()) == []


@pytest.mark.parametrize("damage", [DATA[:-1], DATA + b"x", b"", b"X" + DATA[1:]])
def test_damage_is_seen_on_read_and_healed_by_the_next_put(tmp_path: Path, damage: bytes) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.put(DIGEST, DATA)
    stored(tmp_path).chmod(0o644)
    stored(tmp_path).write_bytes(damage)
    with pytest.raises(BlobCorrupt, match="instead of"):
        blobs.get(DIGEST)
    assert blobs.put(DIGEST, DATA) is True
    assert blobs.get(DIGEST) == DATA


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    link = stored(tmp_path / "blobs")
    link.parent.mkdir()
    link.symlink_to(secret)
    assert blobs.info(DIGEST) is None
    with pytest.raises(LibraryUnavailable):
        blobs.get(DIGEST)


def test_strangers_in_the_directory_are_not_listed(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.put(DIGEST, DATA)
    (tmp_path / "README").write_text("mine")
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / DIGEST).write_text("on the wrong shelf")
    (stored(tmp_path).parent / "note.txt").write_text("mine")
    assert [info.digest for info in blobs.list()] == [DIGEST]


def test_putting_again_renews_the_time(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.put(DIGEST, DATA)
    os.utime(stored(tmp_path), (1.0, 1.0))
    blobs.put(DIGEST, DATA)
    assert next(blobs.list()).modified > time.time() - 3600


def test_opening_removes_what_dead_writers_left_but_not_what_is_being_written(tmp_path: Path) -> None:
    DirectoryBlobs(tmp_path)
    old, young = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    DirectoryBlobs(tmp_path)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_file_in_the_way_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    with pytest.raises(LibraryUnavailable, match="blobs"):
        DirectoryBlobs(tmp_path / "blobs")


def test_no_space_left_leaves_nothing_behind(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    blobs.put(DIGEST, DATA)
    big = bytes(1_000_000)
    digest = hashlib.sha256(big).hexdigest()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(LibraryFull, match="no space left"):
            blobs.put(digest, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert blobs.info(digest) is None
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert blobs.get(DIGEST) == DATA
    assert blobs.put(digest, big) is True


@pytest.mark.parametrize("moment", ["fsync", "replace", "fchmod"])
def test_a_writer_killed_at_any_moment_leaves_all_or_nothing(tmp_path: Path, moment: str) -> None:
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from esper.urza.blobs import DirectoryBlobs
        blobs = DirectoryBlobs(sys.argv[1])
        os.{moment} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        blobs.put({DIGEST!r}, b"kernel half" * 1000)
        """
    )
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    blobs = DirectoryBlobs(tmp_path)
    assert blobs.info(DIGEST) is None
    assert list(blobs.list()) == []
    assert blobs.put(DIGEST, DATA) is True
    assert blobs.get(DIGEST) == DATA
