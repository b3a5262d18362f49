from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from esper.errors import OutputDirectoryError
from esper.output import EventLog, Summary
from esper.output.readers import read_run

MakeRun = Callable[..., Path]


def stage(log: EventLog, epoch: int, target: str, seed: str = "a/0", source: str = "DORMANT") -> None:
    log.seed(epoch=epoch, step=epoch, seed=seed, slot="a", source=source, target=target, reason=f"to {target}")


def epoch(log: EventLog, number: int, loss: float) -> None:
    log.epoch(
        epoch=number, step=number, train_loss=loss, controller_loss=loss, controller_metric=None, learning_rate=0.1,
        seconds=1.0, parameters=10, flops={"host": number}, seeds_by_stage={},
    )  # fmt: skip


def test_a_run_is_folded_into_epochs_lives_and_kernels(run_directory: MakeRun) -> None:
    record = read_run(run_directory())
    assert (record.name, record.phase, record.last_epoch, record.metric) == ("mnist1d-cnn", "Completed", 40, "accuracy")
    assert [(life.label, life.stage) for life in record.seeds] == [
        ("blocks.0/0", "FOSSILIZED"),
        ("blocks.1/0", "CULLED"),
        ("blocks.2/0", "CULLED"),
        ("blocks.2/0 (2)", "EVALUATING"),
    ]
    kept = record.seeds[0]
    assert [(span.stage, span.start, span.end) for span in kept.spans][-2:] == [
        ("FINE_TUNING", 11, 12),
        ("FOSSILIZED", 12, None),
    ]
    assert [event["passed"] for event in kept.verdicts] == [True]
    assert kept.why == "the twin is worse by 0.061 (p 0.0004)"
    assert record.seeds[1].why == "no gain over the twin: 0.002 (p 0.31)"
    assert len(record.kernels) == 5
    assert len(record.decisions) == 4


def test_a_run_without_a_summary_is_unfinished(run_directory: MakeRun) -> None:
    record = read_run(run_directory(finished=False))
    assert record.summary is None
    assert record.phase == "Unfinished"
    assert (record.name, record.metric) == ("mnist1d-cnn", "accuracy")


def test_a_summary_alone_is_enough(tmp_path: Path, summary: Callable[..., Summary]) -> None:
    summary().write(tmp_path)
    record = read_run(tmp_path)
    assert (record.epochs, record.seeds) == ([], [])
    assert record.phase == "Completed"


def test_a_rollback_takes_back_epochs_and_stages(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for number in (1, 2, 3):
            epoch(log, number, float(number))
            if number == 1:
                stage(log, 1, "GERMINATED")
                stage(log, 1, "GRAFTING", source="GERMINATED")
                stage(log, 1, "GERMINATED", seed="b/0")
            if number == 2:
                stage(log, 2, "STABILIZATION", source="GRAFTING")
        stage(log, 3, "ROLLED_BACK", seed="b/0", source="GERMINATED")
        log.rollback(epoch=3, step=3, to_epoch=1, cause="loss spike", seed="b/0", seconds=0.2)
        epoch(log, 2, 20.0)
    record = read_run(tmp_path)
    assert [stats["train_loss"] for stats in record.epochs] == [1.0, 20.0]
    first, second = record.seeds
    assert [(span.stage, span.end) for span in first.spans] == [("GERMINATED", 1), ("GRAFTING", None)]
    assert second.stage == "ROLLED_BACK"
    assert len(record.rollbacks) == 1


def test_a_resume_is_counted(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        for resumed in (False, True):
            log.run_started(
                epoch=0, step=0, name="r", task="t:t", seed=0, resumed=resumed, manifest={}, versions={},
                host_parameters=1, slots={},
            )  # fmt: skip
    assert read_run(tmp_path).resumes == 1


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputDirectoryError, match="is not a run"):
        read_run(tmp_path)
