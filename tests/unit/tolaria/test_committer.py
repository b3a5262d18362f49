"""The rule for how far a run may get ahead of its store."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from buckets import Flaky
from esper.errors import CheckpointsUnavailable, RunTaken
from esper.tolaria.store import CheckpointStore, Commit, Committer, committer


def commit(number: int) -> Commit:
    return Commit(number, number, {"state.json": b"{}"}, {"commit": number, "step": number}, {})


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(committer, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(committer, "LONGEST_WAIT", 0.05)


@pytest.fixture
def store():
    made = Flaky()
    assert isinstance(made, CheckpointStore)
    return made


def test_without_a_thread_a_commit_is_durable_when_put_returns(store):
    commits, told = Committer(store), []
    commits.put(commit(1), lambda: told.append(1))
    assert (store.committed, told) == ([1], [1])
    assert [stored.name for stored in commits.stored()] == ["step-000000000001"]
    assert commits.stored() == []
    store.taken = True
    with pytest.raises(RunTaken):
        commits.put(commit(2), lambda: told.append(2))
    assert told == [1], "nothing is told about what was not committed"


def test_training_goes_on_while_the_store_is_away_and_then_waits(store):
    words, told = [], []
    commits = Committer(store, ahead=2, patience=60, say=words.append)
    store.away = True
    for number in (1, 2):
        commits.put(commit(number), lambda number=number: told.append(number))
    while not commits.trouble:
        time.sleep(0.005)
    assert (commits.behind, words, told) == (2, [], []), "two commits ahead it has not waited, nor told anything"
    threading.Timer(0.5, lambda: setattr(store, "away", False)).start()
    began = time.monotonic()
    commits.put(commit(3), lambda: told.append(3))
    assert time.monotonic() - began > 0.3, "the third had to wait"
    assert len(words) == 2
    assert "training waits: 3 checkpoints are not stored (nowhere: can't write" in words[0]
    assert "goes on" in words[1]
    commits.finish()
    assert store.committed == told == [1, 2, 3], "in order, each once"
    assert commits.trouble == ""
    commits.close()


def test_a_store_that_stays_away_ends_the_run_and_says_what_is_stored(store):
    commits = Committer(store, ahead=1, patience=0.3)
    commits.put(commit(1))
    commits.finish()
    store.away = True
    commits.put(commit(2))
    with pytest.raises(
        CheckpointsUnavailable, match=r"2 checkpoints are not stored, .*step-000000000001 .*is the store"
    ):
        commits.put(commit(3))
    commits.close()


def test_a_refusal_for_good_is_raised_where_the_training_is_and_is_not_tried_again(store):
    commits = Committer(store, ahead=3, patience=60)
    store.taken = True
    with contextlib.suppress(RunTaken):  # when the thread is that quick
        commits.put(commit(1))
    with pytest.raises(RunTaken):
        commits.finish()
    tries = store.tries
    with pytest.raises(RunTaken):
        commits.put(commit(2))
    assert store.tries == tries == 1
    commits.close()


def test_who_must_stop_does_not_wait_for_ever(store):
    store.away = True
    commits = Committer(store, ahead=1, patience=60, last=0.2)
    commits.put(commit(1))
    asked = []
    commits.put(commit(2), stop=lambda: bool(asked.append(1)) or len(asked) > 3)
    assert len(asked) > 3, "a stop ends the wait between epochs"
    began = time.monotonic()
    with pytest.raises(CheckpointsUnavailable, match="2 checkpoints are not stored, this process has stored none"):
        commits.finish(stopping=True)
    assert time.monotonic() - began < 2
    commits.close()


def test_results_are_left_when_the_store_is_back(store, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("summary.json", "model/a", "model/b"):
        (tmp_path / name).write_text("x")
    words = []
    commits = Committer(store, ahead=1, patience=60, say=words.append)
    store.away = True
    threading.Timer(0.2, lambda: setattr(store, "away", False)).start()
    commits.leave(["summary.json", "model", "absent"], tmp_path)
    assert store.left == ["summary.json", "model/a", "model/b"]
    assert words
    store.away = True
    with pytest.raises(CheckpointsUnavailable, match="lies in"):
        Committer(store, ahead=1, patience=0.1).leave(["summary.json"], tmp_path)
