from __future__ import annotations

import json
import os
import subprocess

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointMismatch, StorageFull
from esper.tolaria.store import DirectoryStore, Journal, pack


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), value), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}


def write(store: DirectoryStore, number: int, values: dict[str, torch.Tensor] | None = None) -> None:
    store.commit(pack(values or tensors(number), {"commit": number}, {"commit": number, "step": number}))


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "index.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, file, damage):
    store = DirectoryStore(tmp_path)
    write(store, 1)
    write(store, 2)
    path = store.root / "step-000000000002" / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0x40
        path.write_bytes({"truncate": bytes(data[: len(data) // 2]), "flip": bytes(data), "empty": b""}[damage])
    found, problems = store.newest()
    assert found.state == {"commit": 1}
    assert len(problems) == 1
    assert "step-000000000002" in problems[0]


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path):
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=True)
    try:
        store = DirectoryStore(small)
        write(store, 1, {"a": torch.zeros(30_000)})
        with pytest.raises(StorageFull, match="free some space"):
            write(store, 2, {"a": torch.zeros(60_000)})
        found, problems = store.newest()
        assert found.state == {"commit": 1}
        assert problems == []
        assert sorted(p.name for p in store.root.iterdir()) == ["owner", "step-000000000001"]
        assert [entry["commit"] for entry in store.journal.entries()] == [1]
    finally:
        subprocess.run(["umount", small], check=True)


entries = st.lists(st.fixed_dictionaries({"x": st.text(max_size=5)}), max_size=8).map(
    lambda items: [{"commit": number, **item} for number, item in enumerate(items, 1)]
)


@given(entries, st.binary(max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_last_line_is_dropped_and_the_rest_survives(tmp_path, items, torn):
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for item in items:
        journal.put(item)
    with open(path, "ab") as handle:
        handle.write(torn.replace(b"\n", b""))
    assert journal.entries() == items


def test_damage_in_the_middle_of_the_journal_is_an_error(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for commit in (1, 2, 3):
        journal.put({"commit": commit})
    data = journal.path.read_bytes().replace(b'"commit": 2', b'"commit": 7')
    journal.path.write_bytes(data)
    with pytest.raises(CheckpointMismatch, match="line 2"):
        journal.entries()


def test_truncating_the_journal_forgets_what_was_not_committed(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for commit in (1, 2, 3):
        journal.put({"commit": commit})
    with open(journal.path, "a") as handle:
        handle.write("deadbeef {")
    journal.truncate_after(2)
    assert [e["commit"] for e in journal.entries()] == [1, 2]
    journal.put({"commit": 3, "again": True})
    assert [e["commit"] for e in journal.entries()] == [1, 2, 3]
    assert all(json.loads(line.split(" ", 1)[1]) for line in journal.path.read_text().splitlines())


def test_an_entry_takes_the_place_of_those_from_its_number_on(tmp_path):
    for first in (Journal(tmp_path / "journal.jsonl"), None):
        journal = first or Journal(tmp_path / "journal.jsonl")
        for commit in (1, 2, 3):
            journal.put({"commit": commit, "first": first is not None})
        length = journal.put({"commit": 2, "again": True})
        assert length == journal.path.stat().st_size
        assert [(e["commit"], "again" in e) for e in journal.entries()] == [(1, False), (2, True)]
