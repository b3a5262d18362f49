"""Data that are made once for all processes of a user."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from esper.tasks import load_task, mnist1d
from esper.tasks.kept import Tensors, kept


class Made:
    """Counts how often it is made."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Tensors:
        self.times += 1
        return {"a": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path))
    return tmp_path / "data"


def test_what_is_there_is_not_made_again(folder: Path) -> None:
    made = Made()
    first, second = kept("one", made), kept("one", made)
    assert made.times == 1
    assert torch.equal(first["a"], second["a"])
    kept("other", made)
    assert made.times == 2
    assert sorted(file.name for file in folder.iterdir()) == ["one.safetensors", "other.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 100])
def test_a_damaged_file_is_made_again_and_said(folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    made = Made()
    kept("one", made)
    (folder / "one.safetensors").write_bytes(damage)
    assert torch.equal(kept("one", made)["a"], made()["a"])
    assert "one.safetensors is made again" in caplog.text
    times = made.times
    kept("one", made)
    assert made.times == times


def test_a_cache_that_can_not_be_used_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path / "file"))
    assert torch.equal(kept("one", Made())["a"], Made()()["a"])
    assert "one is made without a cache" in caplog.text


def test_the_kept_signals_are_those_that_are_made(folder: Path) -> None:
    sizes = {"train_examples": 30, "controller_examples": 10, "report_examples": 10}
    batches = []
    for _ in range(2):
        mnist1d.signals.cache_clear()
        task = load_task("esper.tasks.mnist1d:task", sizes, 0)
        batches.append(task.train.batch(torch.arange(30)))
    (signals, labels), (again, labels_again) = batches
    assert torch.equal(signals, again)
    assert torch.equal(labels, labels_again)
    assert (signals.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert len(list(folder.glob("mnist1d-*.safetensors"))) == 1
