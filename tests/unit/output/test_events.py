from __future__ import annotations

import enum
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointMismatch, OutputDirectoryError, StorageFull
from esper.output import EventLog, Kind, read_events
from esper.output.plain import plain


def warn(log: EventLog, epoch: int, text: str = "careful") -> None:
    log.warning(epoch=epoch, step=epoch * 10, text=text)


def test_events_come_back_in_order_with_time_epoch_and_step(tmp_path: Path) -> None:
    times = iter([10.0, 11.5])
    with EventLog(tmp_path / "events.jsonl", clock=lambda: next(times)) as log:
        warn(log, 1)
        log.rollback(epoch=2, step=20, to_epoch=1, cause="loss spike", seconds=0.1)
    first, second = read_events(tmp_path / "events.jsonl")
    assert first == {"t": 10.0, "epoch": 1, "step": 10, "kind": "warning", "text": "careful"}
    assert (second["t"], second["kind"], second["to_epoch"]) == (11.5, "rollback", 1)


@given(cut=st.integers(min_value=0), texts=st.lists(st.text(max_size=20), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_at_any_byte_gives_the_whole_lines_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    with EventLog(path, clock=lambda: 0.0) as log:
        for text in texts:
            warn(log, 1, text)
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert [event["text"] for event in read_events(path)] == texts[:whole]
    with EventLog(path, clock=lambda: 0.0) as log:  # a restart mends the file before it goes on
        warn(log, 2, "next")
    assert [event["text"] for event in read_events(path)] == [*texts[:whole], "next"]


def test_a_torn_tail_longer_than_a_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        warn(log, 1)
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"text":"' + b"x" * 200_000)
    EventLog(path).close()
    assert path.read_bytes() == kept


def test_truncating_to_an_offset_forgets_what_came_after_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        warn(log, 1)
        offset = log.commit()
        warn(log, 2)
        warn(log, 3)
    with EventLog(path) as log:
        log.truncate_to(offset)
        assert log.offset() == offset
        warn(log, 9)
    assert [event["epoch"] for event in read_events(path)] == [1, 9]


def test_truncating_to_zero_empties_the_log(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        warn(log, 1)
        log.truncate_to(0)
        assert log.offset() == 0


@pytest.mark.parametrize("offset", [-1, 5, 10_000])
def test_an_offset_of_another_log_is_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        warn(log, 1)
        with pytest.raises(CheckpointMismatch, match=r"events\.jsonl"):
            log.truncate_to(offset)
    assert len(list(read_events(path))) == 1


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append(Kind.WARNING, epoch=0, step=0, loss=float("nan"), most=float("inf"), parts=[1.5, float("-inf")])
    (event,) = read_events(tmp_path / "events.jsonl")
    assert (event["loss"], event["most"], event["parts"]) == (None, None, [1.5, None])


def test_a_lone_surrogate_in_a_name_does_not_stop_the_log(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        warn(log, 0, "\udc80 strange")
    (event,) = read_events(tmp_path / "events.jsonl")
    assert "strange" in event["text"]


def test_reserved_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        with pytest.raises(ValueError, match="reserved"):
            log.append(Kind.WARNING, epoch=0, step=0, t=1)
        with pytest.raises(ValueError, match="nonsense"):
            log.append("nonsense", epoch=0, step=0)
        assert log.offset() == 0


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Scalar:
    def item(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.LOW, "LOW"),
        (Word.YES, "yes"),
        ({Level.LOW: {3, 1}}, {"LOW": [1, 3]}),
        ((1, Path("a/b")), [1, "a/b"]),
        (Scalar(), 2.5),
        (True, True),
        (None, None),
    ],
)
def test_values_are_made_plain(value: Any, expected: Any) -> None:
    assert plain(value) == expected
    json.dumps(plain(value), allow_nan=False)


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        plain(object())


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b'{"text": 1}\n'])
def test_a_foreign_line_is_named_by_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        warn(log, 1)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(OutputDirectoryError, match=r"events\.jsonl:2"):
        list(read_events(path))


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputDirectoryError, match="missing"):
        EventLog(tmp_path / "missing" / "events.jsonl")


def test_a_full_disk_while_flushing_keeps_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    warn(log, 1)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFull, match="--resume"):
        log.commit()
