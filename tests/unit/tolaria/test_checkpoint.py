from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointMismatch, StorageFull
from esper.tolaria.checkpoint import CheckpointStore
from esper.tolaria.journal import Journal


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), value), "n": torch.tensor(7), "half": torch.ones(2, dtype=torch.bfloat16)}


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    store = CheckpointStore(tmp_path)
    name = store.write(12, tensors(0.1), {"epoch": 3, "text": "ü"})
    found = store.read(name)
    assert found.state == {"epoch": 3, "text": "ü"}
    assert all(torch.equal(found.tensors[k], v) and found.tensors[k].dtype == v.dtype for k, v in tensors(0.1).items())


def test_only_the_newest_are_kept_and_the_same_step_replaces(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3):
        store.write(step, tensors(step), {"step": step})
    store.write(3, tensors(9), {"step": "again"})
    assert store.names() == ["step-000000000002", "step-000000000003"]
    assert store.newest()[0].state == {"step": "again"}


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "index.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, file, damage):
    store = CheckpointStore(tmp_path)
    store.write(1, tensors(1), {"step": 1})
    store.write(2, tensors(2), {"step": 2})
    path = tmp_path / "step-000000000002" / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 0x40
        path.write_bytes({"truncate": bytes(data[: len(data) // 2]), "flip": bytes(data), "empty": b""}[damage])
    found, problems = store.newest()
    assert found.state == {"step": 1}
    assert len(problems) == 1
    assert "step-000000000002" in problems[0]


def test_all_damaged_is_told(tmp_path):
    store = CheckpointStore(tmp_path)
    store.write(1, tensors(), {})
    (tmp_path / "step-000000000001" / "index.json").write_text("[]")
    found, problems = store.newest()
    assert found is None
    assert len(problems) == 1


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path):
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=True)
    try:
        store = CheckpointStore(small / "checkpoints")
        store.write(1, {"a": torch.zeros(40_000)}, {"step": 1})
        with pytest.raises(StorageFull, match="free some space"):
            store.write(2, {"a": torch.zeros(60_000)}, {"step": 2})
        found, problems = store.newest()
        assert found.state == {"step": 1}
        assert problems == []
        assert [p.name for p in store.root.iterdir()] == ["step-000000000001"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_kill_9_while_writing_never_leaves_a_half_checkpoint(tmp_path):
    program = textwrap.dedent(
        """
        import sys, torch
        from pathlib import Path
        from esper.tolaria.checkpoint import CheckpointStore
        store = CheckpointStore(Path(sys.argv[1]), keep=2)
        print("go", flush=True)
        for step in range(1, 10_000):
            store.write(step, {"a": torch.full((20_000,), float(step))}, {"step": step})
        """
    )
    import random
    import time

    for round_ in range(4):
        child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "go\n"
        time.sleep(random.Random(round_).uniform(0.01, 0.2))
        child.kill()
        child.wait()
        child.stdout.close()
        found, problems = CheckpointStore(tmp_path).newest()
        assert problems == []
        if found is not None:
            assert bool((found.tensors["a"] == float(found.state["step"])).all())


entries = st.lists(st.fixed_dictionaries({"step": st.integers(0, 50), "x": st.text(max_size=5)}), max_size=8)


@given(entries, st.binary(max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_last_line_is_dropped_and_the_rest_survives(tmp_path, items, torn):
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for item in items:
        journal.append(item)
    with open(path, "ab") as handle:
        handle.write(torn.replace(b"\n", b""))
    assert journal.entries() == items


def test_damage_in_the_middle_of_the_journal_is_an_error(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(3):
        journal.append({"step": step})
    data = journal.path.read_bytes().replace(b'"step": 1', b'"step": 7')
    journal.path.write_bytes(data)
    with pytest.raises(CheckpointMismatch, match="line 2"):
        journal.entries()


def test_truncating_the_journal_forgets_what_was_not_committed(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in (10, 20, 30):
        journal.append({"step": step})
    with open(journal.path, "a") as handle:
        handle.write("deadbeef {")
    journal.truncate_after(20)
    assert [e["step"] for e in journal.entries()] == [10, 20]
    journal.append({"step": 25})
    assert [e["step"] for e in journal.entries()] == [10, 20, 25]
    assert all(json.loads(line.split(" ", 1)[1]) for line in journal.path.read_text().splitlines())
