"""One run on two ranks: the same bits on both through everything that happens to a run, and an end to what can't go on.

The ranks of the first part run under a real torchrun, one launch for all their runs; the others are forks that are
started as a launcher would, so that their exit statuses can be seen.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from esper.errors import CheckpointMismatch
from ranked_launch import Forked, scenario, seen, torchrun
from runs import fixed, manifest, trainer

NOISY: dict[str, Any] = {"task": {"ref": "small_tasks:noisy", "params": {}}, "training": {"stepsPerEpoch": 6}}
KEPT = {"judge": {"cooldownSteps": 5, "minimumEffect": 0.0, "pValue": 0.49}}
CULLED = {"judge": {"cooldownSteps": 5, "minimumEffect": 100.0}}
ISOLATED = {"seeds": {"objective": "Shadow", "isolationEpochs": 2}}
RUNS = (
    scenario("never", manifest(**NOISY), ["mlp"]),
    scenario("kept", fixed("blocks.0", "conv_block", **KEPT), ["conv_block"]),
    scenario("culled", fixed("blocks.0", "mlp", **NOISY, **CULLED), ["mlp"]),
    scenario("isolated", fixed("blocks.0", "mlp", **NOISY, **CULLED, **ISOLATED), ["mlp"]),
    scenario(
        "nan", fixed("blocks.0", "mlp", **NOISY, **KEPT), ["mlp"], mishap={"what": "nan", "rank": 1, "epoch": 5}
    ),
    scenario(
        "kernel", fixed("blocks.0", "mlp", **NOISY, **KEPT), ["mlp"], mishap={"what": "kernel", "rank": 1, "epoch": 4}
    ),
    scenario(
        "fossil", fixed("blocks.0", "conv_block", **KEPT), ["conv_block"],
        mishap={"what": "kernel", "rank": 1, "epoch": 10},
    ),
    scenario(
        "learner", fixed("blocks.0", "mlp", **NOISY, **CULLED, **ISOLATED), ["mlp"],
        mishap={"what": "kernel", "rank": 1, "epoch": 4, "index": 2},
    ),
    scenario("load", fixed("blocks.0", "mlp", **NOISY), ["mlp"], mishap={"what": "load", "rank": 1}),
    scenario(
        "corrupt", fixed("blocks.0", "mlp", **NOISY, **KEPT), ["mlp"],
        mishap={"what": "corrupt", "rank": 1, "epoch": 6},
    ),
)  # fmt: skip
NAMES = [run["name"] for run in RUNS]
EVERYTHING = ("epochs", "moves", "rollbacks", "ending", "verdicts", "controller", "train", "best", "ledger",
              "statistics", "final", "stages", "fallbacks", "host")  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of ``RUNS`` on two ranks, under one torchrun."""
    folder = tmp_path_factory.mktemp("grown")
    status, written = torchrun(folder, *RUNS)
    assert status == 0, written
    return folder


def moves(run: dict[str, Any]) -> list[str]:
    return [target for *_, target in run["moves"]]


@pytest.mark.parametrize("name", NAMES)
def test_both_ranks_hold_the_same_bits_after_every_epoch(name, grown):
    first, second = seen(grown, name)
    assert len(first["epochs"]) > 12
    for what in EVERYTHING:
        assert first[what] == second[what], what


def test_the_runs_met_what_they_were_to_meet(grown):
    """What the comparison above is worth depends on what happened; here it is said."""
    happened = {name: seen(grown, name)[0] for name in NAMES}
    assert moves(happened["kept"])[-1] == "FOSSILIZED"
    assert moves(happened["culled"])[-2:] == ["CULLED", "DORMANT"]
    assert happened["isolated"]["moves"][2][4] == "TRAINING"
    assert happened["isolated"]["moves"][3][0] - happened["isolated"]["moves"][2][0] == 2
    assert len(happened["nan"]["rollbacks"]) == len(happened["corrupt"]["rollbacks"]) == 1


@pytest.mark.parametrize("name", ["culled", "isolated", "nan"])
def test_a_dropped_seed_leaves_the_host_that_never_had_it(name, grown):
    run, never = seen(grown, name)[0], seen(grown, "never")[0]
    assert moves(run)[-1] in ("DORMANT", "ROLLED_BACK")
    assert run["host"] == never["host"]


def test_nan_on_one_rank_rolls_both_back_to_the_same_epoch(grown):
    for run in seen(grown, "nan"):
        ((cause, epoch),) = run["rollbacks"]
        assert "nan" in cause
        assert epoch == 4
        assert moves(run)[-1] == "ROLLED_BACK"


def test_a_damaged_seed_state_on_one_rank_rolls_both_back(grown):
    for run in seen(grown, "corrupt"):
        ((cause, epoch),) = run["rollbacks"]
        assert "CRC32" in cause
        assert epoch == 5


def test_a_kernel_that_fails_on_one_rank_has_failed_on_both_in_the_same_step(grown):
    first, second = seen(grown, "kernel")
    at = [[move for move in run["moves"] if move[4] == "ERROR_RECOVERY"] for run in (first, second)]
    assert at[0] == at[1] != []
    assert "on rank 1: RuntimeError: illegal instruction" in " ".join(first["reasons"]["blocks.0/0"])
    assert moves(first)[-2:] == ["CULLED", "DORMANT"]
    assert first["host"] == seen(grown, "never")[0]["host"]


def test_a_kernel_that_fails_on_one_rank_while_it_learns_alone_is_dropped_on_both(grown):
    first, _ = seen(grown, "learner")
    assert moves(first) == ["GERMINATED", "LOADING", "TRAINING", "ERROR_RECOVERY", "CULLED", "DORMANT"]
    assert first["host"] == seen(grown, "never")[0]["host"]


def test_a_fossil_whose_kernel_fails_on_one_rank_takes_the_reference_path_on_both(grown):
    first, second = seen(grown, "fossil")
    assert first["fallbacks"] == second["fallbacks"] == {"blocks.0/0": [True, False]}


def test_a_kernel_that_one_rank_cannot_load_is_culled_on_both(grown):
    first, second = seen(grown, "load")
    assert moves(first) == moves(second) == ["GERMINATED", "LOADING", "CULLED", "DORMANT"]
    assert "on rank 1: OSError: the store is away" in " ".join(first["reasons"]["blocks.0/0"])


# -- what ends a run, and how it goes on -----------------------------------------------------------------------------

STORY = scenario("story", fixed("blocks.0", "mlp", **NOISY, **CULLED), ["mlp"], keep=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the story ends with on two ranks when nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    statuses, written = Forked(folder, STORY).finish()
    assert statuses == [0, 0], written
    return seen(folder, "story")[0]["final"]


def goes_on(folder: Path) -> list[dict[str, Any]]:
    statuses, written = Forked(folder, STORY).finish()
    assert statuses == [0, 0], written
    return seen(folder, "story")


@pytest.mark.parametrize(("rank", "epoch"), [(1, 5), (0, 7)], ids=["the second while grafting", "the first later"])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on_to_the_same_bits(rank, epoch, tmp_path, undisturbed):
    mishap = {"what": "SIGKILL", "rank": rank, "epoch": epoch}
    statuses, written = Forked(tmp_path, {**STORY, "mishap": mishap}).finish()
    assert statuses[rank] == -9
    assert statuses[1 - rank] == 3
    assert f"rank {1 - rank}: rank {rank}" in written[1 - rank]
    assert "is gone" in written[1 - rank]
    assert "--resume" in written[1 - rank]
    assert [run["final"] for run in goes_on(tmp_path)] == [undisturbed] * 2


def test_a_killed_rank_under_torchrun(tmp_path, undisturbed):
    status, written = torchrun(tmp_path, {**STORY, "mishap": {"what": "SIGKILL", "rank": 1, "epoch": 6}})
    assert status != 0
    assert "rank 0: rank 1 is gone" in written
    assert [run["final"] for run in goes_on(tmp_path)] == [undisturbed] * 2


def test_a_rank_that_hangs_ends_the_others_in_time(tmp_path):
    run = fixed("blocks.0", "mlp", **NOISY, governor={"stepTimeoutSeconds": 4})
    ranks = Forked(tmp_path, scenario("hung", run, ["mlp"], mishap={"what": "SIGSTOP", "rank": 1, "epoch": 3}))
    assert ranks.ended(0) == 3
    os.kill(ranks.pids[1], signal.SIGKILL)  # stopped as it is it can't end by itself
    assert ranks.ended(1) == -signal.SIGKILL
    assert "rank 1 is gone or does not answer" in ranks.written(0)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_rank_stops_both_at_the_same_step_with_one_checkpoint(name, tmp_path, undisturbed):
    statuses, written = Forked(
        tmp_path, {**STORY, "mishap": {"what": name, "rank": 1, "epoch": 5, "index": 2}}
    ).finish()
    assert statuses == [0, 0], written
    first, second = seen(tmp_path, "story")
    assert first["ending"] == second["ending"] == f"stopped by {name}"
    assert first["step"] == second["step"]
    assert 4 * 6 < first["step"] < 5 * 6  # inside the fifth epoch, where the ranks' running statistics differ
    assert first["final"] != second["final"]
    assert [run["final"] for run in goes_on(tmp_path)] == [undisturbed] * 2


def test_a_step_too_slow_on_one_rank_rolls_both_back(tmp_path):
    run = fixed("blocks.0", "mlp", **NOISY, **KEPT, governor={"stepTimeoutSeconds": 4})
    mishap = {"what": "sleep", "seconds": 4.3, "rank": 1, "epoch": 4}
    statuses, written = Forked(tmp_path, scenario("slow", run, ["mlp"], mishap=mishap)).finish()
    assert statuses == [0, 0], written
    first, second = seen(tmp_path, "slow")
    assert first["rollbacks"] == second["rollbacks"]
    ((cause, epoch),) = first["rollbacks"]
    assert "on rank 1; spec.governor.stepTimeoutSeconds" in cause
    assert epoch == 3
    assert first["final"] == second["final"]


def test_a_task_that_raises_on_one_rank_ends_both_and_says_where(tmp_path):
    run = scenario("torn", manifest(**NOISY), ["mlp"], mishap={"what": "raise", "rank": 1, "epoch": 2}, fails=True)
    statuses, written = Forked(tmp_path, run).finish()
    assert statuses == [0, 0], written
    for one in seen(tmp_path, "torn"):
        assert one["ending"] == "RankFailed: rank 1: ValueError: the data are torn"


def test_ranks_that_differ_are_found_at_the_end_of_the_epoch(tmp_path):
    run = scenario("odd", manifest(**NOISY), ["mlp"], mishap={"what": "disagree", "rank": 1, "epoch": 2}, fails=True)
    statuses, written = Forked(tmp_path, run).finish()
    assert statuses == [0, 0], written
    for one in seen(tmp_path, "odd"):
        assert one["ending"].startswith("RanksDisagree: the state after epoch 2 of rank 1 differs from rank 0's")


# -- beside one rank -------------------------------------------------------------------------------------------------


def test_two_ranks_train_what_one_rank_trains(tmp_path):
    """Without batch statistics and dropout the split of a batch changes the order of sums and nothing else."""
    run = manifest(
        task={"ref": "esper.tasks.mnist1d:task", "params": {"norm": "group"}},
        training={"epochs": 3, "optimizer": {"name": "SGD", "learningRate": 0.05}, "gradientAccumulation": 2},
    )
    alone = trainer(run)
    alone.train()
    statuses, written = Forked(tmp_path, scenario("split", run, ["conv_block"])).finish()
    assert statuses == [0, 0], written
    split = seen(tmp_path, "split")[0]
    assert split["train"] == pytest.approx(alone.history.train_losses, rel=1e-5)
    assert split["controller"] == pytest.approx(alone.history.controller_losses, rel=1e-5)
    for name, parameter in alone.bank.model.named_parameters():
        found = [value for row in _flat(split["host"][name]) for value in row]
        assert found == pytest.approx(parameter.detach().flatten().tolist(), abs=1e-5)


def _flat(value: Any) -> list[list[float]]:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [row for part in value for row in _flat(part)]
    return [value if isinstance(value, list) else [value]]


def test_the_twin_in_processes_of_its_own_makes_the_same_bits(tmp_path):
    runs = [
        scenario(place, fixed("blocks.0", "mlp", **NOISY, judge={**CULLED["judge"], "twin": place}), ["mlp"])
        for place in ("InProcess", "Process")
    ]
    statuses, written = Forked(tmp_path, *runs).finish()
    assert statuses == [0, 0], written
    here, there = (seen(tmp_path, run["name"])[0] for run in runs)
    assert here["final"] == there["final"]
    assert here["verdicts"] == there["verdicts"]


def test_a_batch_that_does_not_divide_is_refused_by_its_field(tmp_path):
    run = scenario("odd", manifest(training={"batchSize": 51}), ["conv_block"])
    statuses, written = Forked(tmp_path, run).finish()
    assert statuses == [2, 2]
    assert "spec.training.batchSize: 51 does not divide by the 2 ranks of this run; use 50 or another" in written[0]


def test_a_checkpoint_of_two_ranks_is_refused_by_one(tmp_path):
    short = scenario(
        "short",
        manifest(
            **NOISY,
        ),
        ["mlp"],
        keep=True,
        mishap={"what": "SIGTERM", "rank": 0, "epoch": 2},
    )
    statuses, written = Forked(tmp_path, short).finish()
    assert statuses == [0, 0], written
    alone = trainer(manifest(**NOISY), tmp_path / "short", blueprints=["mlp"])
    with pytest.raises(CheckpointMismatch, match=r"2 ranks, this one has 1.*torchrun --nproc-per-node 2"):
        alone.resume()
