"""A killed run goes on where it was and ends with the same bits, whenever it was killed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from esper.errors import CheckpointMismatch
from esper.tolaria.line import Line, Stopped
from esper.tolaria.state import tensors_digest
from esper.tolaria.trainer import Trainer
from forks import die, forked, start_server
from leyline.lifecycle import Stage
from leyline.resources import TrainingRun
from runs import fixed, manifest, trainer
from shelves import Shelf

RUN = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8})
CULLED = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8, "minimumEffect": 100.0})


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return trainer(RUN).shelf


def go_on(run: TrainingRun, out: Path, shelf: Shelf) -> Trainer:
    """Start the run, or resume it if there is something to resume."""
    one = trainer(run, out, shelf=shelf)
    shelf._new = sorted(shelf._paths)  # each process sees the whole shelf anew
    offset = one.resume()
    one.recorder.open(one.task.metric, offset, one.line.step)
    return one


def finished(run: TrainingRun, out: Path, shelf: Shelf) -> str:
    """What is left of a run that has ended: every bit of its state."""
    return tensors_digest(go_on(run, out, shelf).state().tensors)


class Undisturbed(dict[int, str]):
    """What each run ends with when nothing happens to it, and how long one takes on this machine today."""

    seconds = 0.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shelf) -> Undisturbed:
    found = Undisturbed()
    start_server()
    for run in (RUN, CULLED):
        out = tmp_path_factory.mktemp("undisturbed")
        began = time.monotonic()
        assert forked(lambda run=run, out=out: go_on(run, out, shelf).train()) == 0
        found.seconds = time.monotonic() - began
        found[id(run)] = finished(run, out, shelf)
    return found


def test_a_kept_and_a_dropped_seed_end_differently(undisturbed):
    assert undisturbed[id(RUN)] != undisturbed[id(CULLED)]


def moment(draw: random.Random, longest: float, kills: int) -> float:
    """Seconds after which the run is killed, later the more often it was."""
    return draw.uniform(0.1, 1.0) * longest * (1 + kills / 10)


@pytest.mark.parametrize("trial", range(20))
def test_kill_9_at_a_random_moment(trial, tmp_path, shelf, undisturbed):
    run = (RUN, CULLED)[trial % 2]
    draw = random.Random(trial)
    kills, longest = 0, undisturbed.seconds
    while kills == 0:  # a run that outran its killer is no trial: again, with less time
        longest *= 0.7
        out = tmp_path / f"{longest:g}"
        out.mkdir()
        # On a machine that has become slower since, a moment that is always too early would never let it get on.
        while (status := forked(lambda: go_on(run, out, shelf).train(), moment(draw, longest, kills))) != 0:  # noqa: B023
            assert status == -9
            kills += 1
            assert kills < 60, "the run makes no progress"
    assert finished(run, out, shelf) == undisturbed[id(run)]


@pytest.mark.parametrize("write", range(1, 13, 2))
def test_kill_9_inside_a_checkpoint(write, tmp_path, shelf, undisturbed, monkeypatch):
    sync = os.fsync

    def deadly_sync(handle):  # each checkpoint syncs several files and directories; die before the n-th of the run
        deadly_sync.left -= 1
        if deadly_sync.left == 0:
            die()
        sync(handle)

    deadly_sync.left = 20 + write

    def doomed():
        one = go_on(RUN, tmp_path, shelf)
        os.fsync = deadly_sync
        one.train()

    assert forked(doomed) == -9
    assert forked(lambda: go_on(RUN, tmp_path, shelf).train()) == 0
    assert finished(RUN, tmp_path, shelf) == undisturbed[id(RUN)]


@pytest.mark.parametrize("stage", [Stage.GRAFTING, Stage.STABILIZATION, Stage.FINE_TUNING, Stage.FOSSILIZED])
def test_kill_9_in_a_step_of_a_stage(stage, tmp_path, shelf, undisturbed):
    step = Line.train_step

    def deadly_step(self, order, index, rate):
        result = step(self, order, index, rate)
        if index == 4 and any(seed.stage is stage for seed in self.bank.seeds.values()):
            die()
        return result

    def doomed():
        Line.train_step = deadly_step
        go_on(RUN, tmp_path, shelf).train()

    assert forked(doomed) == -9
    assert forked(lambda: go_on(RUN, tmp_path, shelf).train()) == 0
    assert finished(RUN, tmp_path, shelf) == undisturbed[id(RUN)]


@pytest.mark.parametrize("steps", [1, 11, 25, 41, 60, 77])
def test_a_polite_stop_inside_an_epoch_loses_no_step(steps, tmp_path, shelf, undisturbed):
    """SIGTERM: the run stops between two steps, of the host or of the twin, and goes on from exactly there."""
    asked = iter(range(10**6))
    one = go_on(RUN, tmp_path, shelf)
    with pytest.raises(Stopped):
        one.train(stop=lambda: next(asked) >= steps)
    one.recorder.close()
    other = go_on(RUN, tmp_path, shelf)
    assert other.line.step == one.line.step
    other.train()
    other.recorder.close()
    assert finished(RUN, tmp_path, shelf) == undisturbed[id(RUN)]


def test_a_polite_stop_finds_a_twin_in_another_process_inside_its_epoch(tmp_path, shelf, undisturbed):
    apart = fixed("blocks.0", "conv_block", judge={"cooldownSteps": 8, "twin": "Process"})
    asked = iter(range(10**6))
    one = go_on(apart, tmp_path, shelf)
    with pytest.raises(Stopped):
        one.train(stop=lambda: next(asked) >= 30)
    one.recorder.close()
    assert [seed.stage for seed in one.bank.seeds.values()] == [Stage.GRAFTING]
    other = go_on(apart, tmp_path, shelf)
    other.train()
    other.recorder.close()
    assert tensors_digest(other.state().tensors) == undisturbed[id(RUN)]


def test_a_checkpoint_of_another_model_or_manifest_is_refused(tmp_path, shelf):
    one = go_on(RUN, tmp_path, shelf)
    with pytest.raises(Stopped):
        one.train(stop=lambda: one.epoch >= 1)
    one.recorder.close()
    wider = manifest(task={"ref": "esper.tasks.mnist1d:task", "params": {"channels": 12}})
    with pytest.raises(CheckpointMismatch, match="another model"):
        trainer(wider, tmp_path).resume()
    longer = manifest(training={"epochs": 13})
    with pytest.raises(CheckpointMismatch, match="manifest changed"):
        trainer(longer, tmp_path).resume()
