"""What a run says becomes its status, also when it has said more than one thing since the last one."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce

import pytest

from esper_operator.plan.progress import Progress, following, told
from leyline.resources import TrainingRunStatus
from leyline.resources.status import BestMetric

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def words(metric: str, *values: float) -> list[Progress]:
    """What a run says of its first epochs."""
    return [
        Progress(epoch, 30, metric, value, seconds=10.0, parameters=100, flops=1e9, remaining=0.5)
        for epoch, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(("metric", "values"), [("accuracy", (0.5, 0.9, 0.6, 0.7)), ("loss", (2.0, 0.1, 1.5, 1.7))])
def test_the_best_of_what_was_said_since_the_last_status_is_told(metric: str, values: tuple[float, ...]) -> None:
    first, *more = words(metric, *values)
    before = TrainingRunStatus(**told(TrainingRunStatus(), first, NOW))
    now = told(before, reduce(following, more, first), NOW)
    assert (now["epoch"], now["best"].epoch, now["best"].value) == (4, 2, values[1])
    assert now["best"].text == f"{metric}={values[1]:g}"


def test_what_a_status_had_before_this_operator_listened_stays_the_best() -> None:
    before = TrainingRunStatus(best=BestMetric(metric="accuracy", value=0.95, epoch=1, text="accuracy=0.95"))
    said = reduce(following, words("accuracy", 0.1, 0.9, 0.6))
    assert told(before, said, NOW)["best"] == before.best
