"""What a run says on a real broker, in its status on a real control plane."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import brokers
from clusters import Kube, Operators, eventually
from esper.oona import Bus
from leyline.messages import SeedState
from telling import Trainer, following

pytestmark = pytest.mark.slow


@pytest.fixture
def bus() -> Iterator[Bus]:
    opened = brokers.pulsar_bus()
    yield opened
    opened.close()


@pytest.fixture
def broker(bus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of an operator that follows this bus."""
    for name, value in following(bus, tmp_path).items():
        monkeypatch.setenv(name, value)
    return {"progress_seconds": "0.2"}


def followed(kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], folder: Path) -> Trainer:
    """A run that an operator follows; what it says, the trainer says."""
    trainer = Trainer(bus, folder, "trainer")
    operators.start(**broker)
    kube.run()
    kube.reason("Unschedulable")
    return trainer


def reached(kube: Kube, epoch: int, name: str = "grow") -> dict[str, Any]:
    """The status as soon as it has this epoch."""

    def look() -> dict[str, Any] | None:
        status = kube.status(name)
        assert status.get("epoch") == epoch, status
        return status

    found = eventually(look, 60)
    assert found is not None
    return found


def test_progress_reaches_the_columns(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    trainer = followed(kube, operators, bus, broker, tmp_path)
    seeds = [SeedState(seed_id="blocks.0/0", slot="blocks.0", stage="STAGE_GRAFTING", blueprint="conv", alpha=0.25)]
    trainer.say("grow", 5, 0.8, seeds=seeds)
    status = reached(kube, 5)
    assert (status["progress"], status["seeds"]["text"], status["best"]["text"]) == ("25%", "0/1/0", "accuracy=0.8")
    assert status["seeds"]["entries"][0]["stage"] == "GRAFTING"
    for epoch in range(6, 12):
        trainer.say("grow", epoch, 0.5)
    assert reached(kube, 11)["best"]["epoch"] == 5


def test_a_seed_at_another_stage_is_told_at_once_and_other_epochs_wait(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    seldom = broker | {"progress_seconds": "3600", "audit_seconds": "3600"}
    trainer = followed(kube, operators, bus, seldom, tmp_path)
    trainer.say("grow", 1, 0.1)
    reached(kube, 1)
    trainer.say("grow", 2, 0.7)
    time.sleep(2.0)
    assert kube.status()["epoch"] == 1
    for epoch, stage in ((3, "STAGE_TRAINING"), (4, "STAGE_GRAFTING")):
        trainer.say("grow", epoch, 0.3, seeds=[SeedState(seed_id="blocks.0/0", slot="blocks.0", stage=stage)])
        assert reached(kube, epoch)["seeds"]["entries"][0]["stage"] == stage.removeprefix("STAGE_")
    assert kube.status()["best"]["epoch"] == 2, "the best of all, also of those that were not told by themselves"


def test_how_the_last_epochs_seeds_were_settled_is_told(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    trainer = followed(kube, operators, bus, broker, tmp_path)

    def seed(stage: str) -> list[SeedState]:
        return [SeedState(seed_id="blocks.0/0", slot="blocks.0", stage=f"STAGE_{stage}", blueprint="conv")]

    for stage in ("EVALUATING", "FOSSILIZED"):
        trainer.say("grow", 20, 0.8, seeds=seed(stage))
        eventually(lambda stage=stage: reached(kube, 20)["seeds"]["entries"][0]["stage"] == stage)
    assert kube.status()["progress"] == "100%"


def test_what_a_run_said_that_has_ended_since_is_told(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    """As when the broker was away at the end of a run."""
    trainer = Trainer(bus, tmp_path, "trainer")
    operators.start(**broker)
    kube.run(preRunningDeadlineSeconds=1)
    before = kube.reason("PreRunningDeadlineExceeded")
    trainer.say("grow", 20, 0.9)
    status = reached(kube, 20)
    assert (status["progress"], status["best"]["text"]) == ("100%", "accuracy=0.9")
    same = ("phase", "reason", "message", "conditions", "finishedAt")
    assert {name: status[name] for name in same} == {name: before[name] for name in same}


def test_news_that_nobody_trusts_is_not_told(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    thief = Trainer(bus, tmp_path / "elsewhere", "thief")
    trainer = followed(kube, operators, bus, broker, tmp_path)
    thief.say("grow", 19, 0.99)
    trainer.say("grow", 1, 0.3)
    assert reached(kube, 1)["best"]["text"] == "accuracy=0.3"


def test_what_was_said_while_no_operator_ran_is_told_by_the_next(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    trainer = Trainer(bus, tmp_path, "trainer")
    first = operators.start(**broker)
    kube.run()
    kube.reason("Unschedulable")
    trainer.say("grow", 1, 0.3)
    reached(kube, 1)
    first.stop()
    trainer.say("grow", 2, 0.4)
    operators.start(**broker)
    assert reached(kube, 2)["best"]["epoch"] == 2


def test_a_run_of_the_same_name_begins_anew(
    kube: Kube, operators: Operators, bus: Bus, broker: dict[str, str], tmp_path: Path
) -> None:
    trainer = followed(kube, operators, bus, broker, tmp_path)
    trainer.say("grow", 7, 0.8)
    reached(kube, 7)
    kube.delete("trainingruns", "grow")
    eventually(lambda: not kube.owned(), 60)
    kube.run()
    kube.reason("Unschedulable")
    assert "epoch" not in kube.status()
    trainer.say("grow", 1, 0.1)
    assert reached(kube, 1)["best"]["value"] == 0.1
