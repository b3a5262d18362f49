"""What every place for checkpoints must do. A new adapter joins by one entry in ``ADAPTERS``."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import real_s3
from esper.errors import CheckpointMismatch, RunTaken
from esper.objects import S3Settings
from esper.objects.s3 import ObjectStore
from esper.tolaria.store import BucketStore, Checkpoint, CheckpointStore, Commit, DirectoryStore, pack
from forks import die, forked

EVENTS = "events.jsonl"


@dataclass
class Place:
    """Somewhere a run is kept; each trainer opens it on a machine of its own, if the place lets it."""

    open: Callable[[str], CheckpointStore]
    """A trainer's store; the argument is the name of its machine."""
    out: Callable[[str], Path]
    files: Callable[[], dict[str, bytes]]
    """What is stored now, by name."""
    put: Callable[[str, bytes | None], None]
    """Replace a file behind the stores' back, or remove it."""


@contextlib.contextmanager
def in_a_directory(tmp: Path) -> Iterator[Place]:
    root = tmp / "out"
    root.mkdir()

    def files() -> dict[str, bytes]:
        found = root.rglob("checkpoints/step-*/*")
        return {str(path.relative_to(root)): path.read_bytes() for path in found if path.is_file()}

    def put(name: str, data: bytes | None) -> None:
        (root / name).unlink() if data is None else (root / name).write_bytes(data)

    yield Place(lambda machine: DirectoryStore(root, keep=2), lambda machine: root, files, put)


@contextlib.contextmanager
def in_a_bucket(tmp: Path) -> Iterator[Place]:
    with real_s3.bucket() as bucket:
        prefix = "team/run/"
        settings = S3Settings(
            bucket.name, prefix, bucket.endpoint, bucket.region, bucket.access_key, bucket.secret_key, attempts=1
        )

        def out(machine: str) -> Path:
            (tmp / machine).mkdir(exist_ok=True)
            return tmp / machine

        def files() -> dict[str, bytes]:
            client = real_s3.client(bucket)
            listed = client.list_objects_v2(Bucket=bucket.name, Prefix=prefix).get("Contents", ())
            read = {
                each["Key"]: client.get_object(Bucket=bucket.name, Key=each["Key"])["Body"].read() for each in listed
            }
            return {key.removeprefix(prefix): data for key, data in read.items()}

        def put(name: str, data: bytes | None) -> None:
            client = real_s3.client(bucket)
            if data is None:
                client.delete_object(Bucket=bucket.name, Key=prefix + name)
            else:
                client.put_object(Bucket=bucket.name, Key=prefix + name, Body=data)

        yield Place(lambda machine: BucketStore(ObjectStore(settings), out(machine), keep=2), out, files, put)


ADAPTERS = {"directory": in_a_directory, "bucket": in_a_bucket}


@pytest.fixture(params=sorted(ADAPTERS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ADAPTERS[request.param](tmp_path) as made:
        yield made


def commit(number: int, step: int | None = None, *, log: Path | None = None, **state: Any) -> Commit:
    """The ``number``-th commit; with ``log`` its line is in the events file before."""
    step = number * 10 if step is None else step
    tensors = {
        "a": torch.full((3, 2), float(number)), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)
    }  # fmt: skip
    length = 0
    if log is not None:
        with open(log / EVENTS, "ab") as file:
            file.write(f'{{"commit": {number}}}\n'.encode())
            length = file.tell()
    entry = {"commit": number, "step": step, "orders": [{"text": f"ü{number}"}]}
    return pack(tensors, {"commit": number, "step": step, "events": length, **state}, entry, {EVENTS: length})


def taken_over(place: Place, machine: str) -> tuple[CheckpointStore, Checkpoint | None, list[str]]:
    store = place.open(machine)
    store.claim()
    return store, *store.newest()


def begun(place: Place, commits: int, machine: str = "one") -> CheckpointStore:
    store = place.open(machine)
    store.claim()
    for number in range(1, commits + 1):
        store.commit(commit(number, log=place.out(machine)))
    return store


def test_is_a_checkpoint_store(place: Place) -> None:
    assert isinstance(place.open("one"), CheckpointStore)


def test_nothing_is_there_before_the_first_commit(place: Place) -> None:
    store = place.open("one")
    assert not store.holds_run()
    store.claim()
    assert store.newest() == (None, [])
    assert store.journal.entries() == []


def test_another_machine_finds_every_bit_journal_and_log(place: Place) -> None:
    begun(place, 3)
    store, found, problems = taken_over(place, "two")
    assert problems == []
    assert found is not None
    assert found.name == "step-000000000030"
    assert found.state["commit"] == 3
    expected = {"a": torch.full((3, 2), 3.0), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}
    assert found.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found.tensors[name], value)
        assert found.tensors[name].dtype == value.dtype
    assert [entry["orders"][0]["text"] for entry in store.journal.entries()] == ["ü1", "ü2", "ü3"]
    assert (place.out("two") / EVENTS).read_text().splitlines() == [f'{{"commit": {n}}}' for n in (1, 2, 3)]


def test_a_run_goes_from_machine_to_machine(place: Place) -> None:
    begun(place, 2, "one")
    for number, machine in ((3, "two"), (4, "three"), (5, "one")):
        store, found, _ = taken_over(place, machine)
        assert found is not None
        assert found.state["commit"] == number - 1
        store.commit(commit(number, log=place.out(machine)))
    store, found, _ = taken_over(place, "four")
    assert [entry["commit"] for entry in store.journal.entries()] == [1, 2, 3, 4, 5]
    assert (place.out("four") / EVENTS).read_text().splitlines() == [f'{{"commit": {n}}}' for n in range(1, 6)]


def test_the_same_step_replaces_and_only_the_newest_are_kept(place: Place) -> None:
    store = begun(place, 3)
    before = len(place.files())
    store.commit(commit(4, step=30, again=True))
    assert len(place.files()) <= before + 1
    for number in range(5, 30):
        store.commit(commit(number))
    assert len(place.files()) <= before + 2, "what is no longer needed is removed"
    _, found, _ = taken_over(place, "two")
    assert found is not None
    assert found.state["commit"] == 29


def test_a_commit_tried_again_is_committed_once(place: Place) -> None:
    store = begun(place, 1)
    again = commit(2, log=place.out("one"))
    store.commit(again)
    store.commit(again)
    store.commit(commit(3, log=place.out("one")))
    store, found, problems = taken_over(place, "two")
    assert (found.state["commit"] if found else None, problems) == (3, [])
    assert [entry["commit"] for entry in store.journal.entries()] == [1, 2, 3]


def test_long_logs_come_back_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.tolaria.store.bucket.CHUNK", 100)
    monkeypatch.setattr("esper.tolaria.store.bucket.PART", 64)
    draw = random.Random(0)
    store = begun(place, 1)
    for number in range(2, 30):
        with open(place.out("one") / EVENTS, "ab") as file:
            file.write(b"x" * draw.choice([0, 1, 49, 99, 100, 101, 350]) + b"\n")
        store.commit(commit(number, log=place.out("one")))
    written = (place.out("one") / EVENTS).read_bytes()
    journal = store.journal.path.read_bytes()
    store, found, _ = taken_over(place, "two")
    assert found is not None
    assert found.state["commit"] == 29
    assert (place.out("two") / EVENTS).read_bytes() == written
    assert store.journal.path.read_bytes() == journal


# -- damage -------------------------------------------------------------------------------------------------------


def damages(data: bytes) -> dict[str, bytes | None]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x40
    return {"truncated": data[: len(data) // 2], "flipped": bytes(flipped), "empty": b"", "removed": None}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "removed"])
def test_whatever_is_damaged_an_older_checkpoint_or_a_clear_error_is_what_comes(place: Place, damage: str) -> None:
    """Every single stored object in turn: never a wrong bit, and what is used fits its journal and log."""
    journal = begun(place, 3).journal.path
    lines, whole = journal.read_bytes(), place.files()
    for name, data in whole.items():
        journal.write_bytes(lines)
        place.put(name, damages(data)[damage])
        machine = f"after-{damage}-{abs(hash(name))}"
        with contextlib.suppress(CheckpointMismatch):
            store, found, _ = taken_over(place, machine)
            if found is not None:
                number = found.state["commit"]
                assert torch.equal(found.tensors["a"], torch.full((3, 2), float(number)))
                assert [entry["commit"] for entry in store.journal.entries()] == list(range(1, number + 1))
                assert (place.out(machine) / EVENTS).stat().st_size >= found.state["events"]
        now = place.files()
        for stored in now.keys() | whole.keys():  # as it was
            if now.get(stored) != whole.get(stored):
                place.put(stored, whole.get(stored))


def test_a_damaged_newest_checkpoint_is_gone_back_from_and_the_run_goes_on(place: Place) -> None:
    begun(place, 3)
    newest = max(place.files(), key=lambda name: ("tensors" in name, name)) if "step-" in str(place.files()) else ""
    if not newest:  # in a bucket: the object that only the third checkpoint needs
        _, found, _ = taken_over(place, "look")
        newest = next(name for name, data in place.files().items() if torch.full((3, 2), 3.0).numpy().tobytes() in data)
    place.put(newest, place.files()[newest][:-1])
    store, found, problems = taken_over(place, "two")
    assert found is not None
    assert found.state["commit"] == 2
    assert len(problems) == 1
    assert [entry["commit"] for entry in store.journal.entries()] == [1, 2]
    log = place.out("two") / EVENTS
    with open(log, "r+b") as file:
        file.truncate(found.state["events"])
    store.commit(commit(3, log=place.out("two"), second=True))
    store, found, problems = taken_over(place, "three")
    assert problems == []
    assert found is not None
    assert found.state["second"] is True
    assert (place.out("three") / EVENTS).read_text().splitlines() == [f'{{"commit": {n}}}' for n in (1, 2, 3)]


def test_all_damaged_is_told(place: Place) -> None:
    begun(place, 2)
    for name in place.files():
        place.put(name, b"{}")
    with contextlib.suppress(CheckpointMismatch):
        _, found, problems = taken_over(place, "two")
        assert found is None
        assert problems
    assert place.files(), "nothing was removed"


# -- one owner ----------------------------------------------------------------------------------------------------


def test_an_earlier_trainer_can_commit_no_more(place: Place) -> None:
    old = begun(place, 2, "one")
    new, found, _ = taken_over(place, "two")
    assert found is not None
    with pytest.raises(RunTaken, match="another trainer owns this run"):
        old.commit(commit(3, stale=True))
    new.commit(commit(3))
    new.commit(commit(4))
    for number in (3, 4, 5, 6, 7):
        with pytest.raises(RunTaken):
            old.commit(commit(number, stale=True))
    _, found, problems = taken_over(place, "three")
    assert problems == []
    assert found is not None
    assert found.state == {"commit": 4, "step": 40, "events": 0}


def test_an_owner_far_ahead_leaves_no_gap_for_an_earlier_one(place: Place) -> None:
    """The numbers the earlier one would write next have been written and removed again."""
    old = begun(place, 1, "one")
    new, _, _ = taken_over(place, "two")
    for number in range(2, 12):
        new.commit(commit(number))
    with pytest.raises(RunTaken):
        old.commit(commit(2, stale=True))
    _, found, _ = taken_over(place, "three")
    assert found is not None
    assert found.state["commit"] == 11


def test_of_many_that_take_over_at_once_one_goes_on(tmp_path: Path) -> None:
    """In a bucket; the directory of a run lets one process in at a time."""
    with in_a_bucket(tmp_path) as place:
        begun(place, 1)

        def contender(name: str) -> None:
            store, found, _ = taken_over(place, name)
            assert found is not None
            for number in range(found.state["commit"] + 1, 5):
                store.commit(commit(number, winner=name))
            (tmp_path / f"won-{name}").touch()

        threads = [threading.Thread(target=_quietly, args=(contender, f"c{number}")) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _, found, problems = taken_over(place, "after")
        assert problems == []
        assert found is not None
        winners = [path.name.removeprefix("won-") for path in tmp_path.glob("won-*")]
        assert found.state["commit"] == 4
        assert found.state["winner"] in winners


def _quietly(work: Callable[[str], None], name: str) -> None:
    with contextlib.suppress(RunTaken):
        work(name)


# -- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", range(4))
def test_kill_9_while_committing_leaves_the_old_or_the_new_checkpoint(place: Place, trial: int, tmp_path: Path) -> None:
    draw = random.Random(trial)
    seen = rounds = 0
    while rounds < 3 or not seen:  # on a busy machine the first ones may not get as far as a commit
        round_, rounds = rounds, rounds + 1
        assert rounds < 30, "nothing is ever committed"
        machine = f"m{round_}"
        place.out(machine)
        done = tmp_path / "done"

        def work(machine: str = machine, done: Path = done) -> None:
            store, found, _ = taken_over(place, machine)
            begin = found.state["commit"] if found else 0
            for number in range(begin + 1, 10_000):
                store.commit(commit(number, log=place.out(machine)))
                done.write_text(str(number))

        status = forked(work, draw.uniform(0.1, 1.2))
        assert status == -signal.SIGKILL
        store, found, problems = taken_over(place, f"check{round_}")
        assert problems == []
        known = int(done.read_text() or 0) if done.exists() else 0
        number = found.state["commit"] if found else 0
        assert number >= known, "what was reported as committed is there"
        assert number >= seen
        assert [entry["commit"] for entry in store.journal.entries()][:number] == list(range(1, number + 1))
        if found is not None:
            assert bool((found.tensors["a"] == float(number)).all())
        seen = number


@pytest.mark.parametrize("request_", range(1, 12))
def test_kill_9_before_any_one_request_to_the_bucket(request_: int, tmp_path: Path) -> None:
    with in_a_bucket(tmp_path) as place:
        begun(place, 2)
        place.out("two")

        def doomed() -> None:
            store, _, _ = taken_over(place, "two")
            left = request_
            client = store._objects._client  # type: ignore[attr-defined]

            def count(**_: Any) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    die()

            client.meta.events.register("before-send.s3", count)
            for number in range(3, 6):
                store.commit(commit(number, log=place.out("two")))

        assert forked(doomed) == -signal.SIGKILL
        store, found, problems = taken_over(place, "three")
        assert problems == []
        assert found is not None
        number = found.state["commit"]
        assert number in (2, 3, 4)
        assert bool((found.tensors["a"] == float(number)).all())
        store.commit(commit(number + 1, log=place.out("three")))
        store, found, problems = taken_over(place, "four")
        assert (found.state["commit"] if found else 0, problems) == (number + 1, [])
        stored = [name for name in place.files() if name.startswith("blobs/")]
        named = sum(len(file["parts"]) for body in store._bodies.values() for index in body["checkpoints"]  # type: ignore[attr-defined]
                    for file in index["files"].values())  # fmt: skip
        assert len(stored) <= named + 4, "nothing of the dead is left behind"


def test_what_a_run_leaves_is_beside_its_checkpoints(place: Place) -> None:
    store = begun(place, 1)
    path = place.out("one") / "summary.json"
    path.write_text("{}")
    store.leave("summary.json", path)
    assert path.read_text() == "{}"
    found = {name: data for name, data in place.files().items() if name.startswith("output/")}
    assert found in ({}, {"output/summary.json": b"{}"})
