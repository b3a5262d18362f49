"""The append-only log of field reports and what is sent to the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import LibraryError
from esper.tamiyo import FieldReport, FieldReportLog, deliver, report_message
from leyline.v1 import telemetry_pb2

HOUR = 3600.0


def report(seed: str = "blocks.0/0", **fields: Any) -> FieldReport:
    standing = {
        "run": "digits", "slot": "blocks.0", "blueprint": "conv", "artifact_id": "a", "outcome": "CULLED",
        "reason": "no better", "germinated_epoch": 3, "finished_epoch": 9, "pre_loss": 0.5, "post_loss": 0.4,
        "measurements": {"effect": -0.01, "p_value": 0.6},
    }  # fmt: skip
    return FieldReport(seed=seed, **{**standing, **fields})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reports_come_back_as_they_were(tmp_path: Path) -> None:
    log = FieldReportLog(tmp_path / "deep" / "reports.jsonl")
    reports = [report("a/0"), report("b/0", outcome="FOSSILIZED", pre_metric=0.9, post_metric=0.95)]
    assert [log.append(one) for one in reports] == [True, True]
    assert FieldReportLog(log.path).read() == reports


def test_the_same_report_is_written_once_even_after_a_restart(tmp_path: Path) -> None:
    log = FieldReportLog(tmp_path / "reports.jsonl")
    log.append(report())
    size = log.path.stat().st_size
    again = report(finished_epoch=10, reason="told again after a resume")
    assert log.append(again) is False
    assert FieldReportLog(log.path).append(again) is False
    assert log.path.stat().st_size == size
    assert log.append(report(germinated_epoch=20)) is True  # another seed in the same place


def test_a_line_cut_short_is_passed_over_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = FieldReportLog(tmp_path / "reports.jsonl")
    log.append(report("a/0"))
    log.append(report("b/0"))
    log.path.write_bytes(log.path.read_bytes()[:-30])
    log = FieldReportLog(log.path)
    assert [one.seed for one in log.read()] == ["a/0"]
    assert log.append(report("b/0"))
    assert log.append(report("c/0"))
    assert [one.seed for one in FieldReportLog(log.path).read()] == ["a/0", "b/0", "c/0"]


@given(st.binary(max_size=200))
def test_any_bytes_in_the_file_are_survived(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "reports.jsonl"
    path.write_bytes(junk)
    log = FieldReportLog(path)
    assert log.append(report())
    assert [one.seed for one in FieldReportLog(path).read()] == ["blocks.0/0"]


def test_retention_drops_what_is_older_than_a_day(tmp_path: Path) -> None:
    clock = Clock()
    log = FieldReportLog(tmp_path / "reports.jsonl", clock)
    for hour in (0, 10, 20):
        clock.now = hour * HOUR
        log.append(report(f"{hour}/0"))
    clock.now = 24.0 * HOUR
    assert log.retain() == 0
    clock.now = 35.0 * HOUR
    assert log.retain() == 2
    assert [one.seed for one in log.read()] == ["20/0"]
    assert log.append(report("0/0"))
    assert log.retain(hours=1.0) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["reports.jsonl"]


def test_retention_of_a_log_that_was_never_written(tmp_path: Path) -> None:
    assert FieldReportLog(tmp_path / "reports.jsonl").retain() == 0


class Shelf:
    def __init__(self) -> None:
        self.away = False
        self.reports: dict[str, Any] = {}

    def field_report(self, one: Any) -> bool:
        if self.away:
            raise LibraryError("away")
        return self.reports.setdefault(one.message_id, one) is one


def test_delivery_to_log_and_library_may_be_repeated(tmp_path: Path) -> None:
    log, shelf = FieldReportLog(tmp_path / "reports.jsonl"), Shelf()
    receive = deliver(log, shelf)  # type: ignore[arg-type]
    shelf.away = True
    with pytest.raises(LibraryError):
        receive(report())
    shelf.away = False
    receive(report())
    receive(report())
    assert len(log.read()) == 1
    (stored,) = shelf.reports.values()
    assert (stored.seed, stored.outcome, stored.pre_metric, stored.post_metric) == ("blocks.0/0", "CULLED", 0.5, 0.4)
    assert stored.measurements["effect"] == -0.01


def test_the_library_gets_metrics_where_there_are_any() -> None:
    shelf = Shelf()
    deliver(library=shelf)(report(pre_metric=0.9, post_metric=0.95))  # type: ignore[arg-type]
    (stored,) = shelf.reports.values()
    assert (stored.pre_metric, stored.post_metric) == (0.9, 0.95)


def test_the_message_says_the_same() -> None:
    message = report_message(report(), hardware="x86_64-avx512")
    assert message.outcome == telemetry_pb2.OUTCOME_CULLED
    assert (message.seed_id, message.metric, message.metric_before, message.metric_after) == (
        "blocks.0/0", "controller_loss", 0.5, 0.4,
    )  # fmt: skip
    assert (message.effect, message.p_value) == (-0.01, 0.6)
    named = report_message(report(pre_metric=0.9, post_metric=0.95, measurements={}), metric="accuracy")
    assert (named.metric, named.metric_before) == ("accuracy", 0.9)
    assert not named.HasField("effect")
