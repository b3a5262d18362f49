from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from esper.output.board import Board


def read(directory: Path) -> EventAccumulator:
    reader = EventAccumulator(str(directory / "tensorboard"))
    reader.Reload()
    return reader


def stats(loss: float, **more: Any) -> dict[str, Any]:
    return {
        "train_loss": loss, "controller_loss": loss + 0.1, "controller_metric": 0.9, "learning_rate": 0.1,
        "flops": {"host": 5.0}, "seeds_by_stage": {"GRAFTING": 1}, "parameters": 7, **more,
    }  # fmt: skip


def test_an_epoch_is_written_under_its_step(tmp_path: Path) -> None:
    board = Board(tmp_path, "accuracy")
    board.epoch(40, stats(0.5))
    board.seed(40, "a/0", {"alpha": 0.25})
    board.text(40, "decision", "germinate <b>here</b>")
    board.close()
    reader = read(tmp_path)
    assert {"loss/train", "loss/controller", "metric/controller_accuracy", "flops/host", "seeds/grafting"} <= set(
        reader.Tags()["scalars"]
    )
    (point,) = reader.Scalars("loss/train")
    assert (point.step, point.value) == (40, 0.5)
    assert reader.Scalars("seed a/0/alpha")[0].value == 0.25


def test_a_resume_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    board = Board(tmp_path, "accuracy")
    for step in (10, 20, 30):
        board.epoch(step, stats(float(step)))
    board.close()
    board = Board(tmp_path, "accuracy", resume_after=20)
    board.epoch(30, stats(333.0))
    board.close()
    points = [(point.step, point.value) for point in read(tmp_path).Scalars("loss/train")]
    assert points == [(10, 10.0), (20, 20.0), (30, 333.0)]


def test_a_loss_that_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    board = Board(tmp_path, "accuracy")
    board.epoch(10, stats(math.nan))
    board.epoch(20, stats(1.0))
    board.close()
    assert [point.step for point in read(tmp_path).Scalars("loss/train")] == [20]
