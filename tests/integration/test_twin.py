"""The twin decides, and when a seed is dropped the twin is the host: bit for bit the run that never had the seed."""

from __future__ import annotations

import pytest

from esper.kasmina import Command
from esper.tolaria.governor import Watchdog
from esper.tolaria.state import tensors_digest
from esper.tolaria.trainer import Trainer
from leyline.lifecycle import Stage
from runs import fixed, manifest, trainer

IMPOSSIBLE = {"judge": {"minimumEffect": 100.0, "cooldownSteps": 5}}


def host(run: Trainer) -> str:
    return tensors_digest(run.bank.host_tensors())


def outcome(run: Trainer) -> list[Stage]:
    return [seed.history[-1].source for seed in run.bank.seeds.values() if seed.stage is Stage.DORMANT]


@pytest.mark.parametrize("slot", ["blocks.0", "blocks.2"])
def test_a_culled_seed_leaves_the_host_that_never_had_it(slot):
    never, culled = trainer(manifest()), trainer(fixed(slot, "conv_block", **IMPOSSIBLE))
    never.train()
    culled.train()
    assert outcome(culled) == [Stage.CULLED]
    assert host(culled) == host(never)
    assert culled.history.controller_losses[-1] == never.history.controller_losses[-1]
    assert culled.line.optimizer.groups == ("host",)
    optimizer = [tensors_digest(run.line.optimizer.export_state()[0]) for run in (never, culled)]
    assert optimizer[0] == optimizer[1]
    assert culled.flops_by_purpose()["culled"] > 0


def test_the_same_holds_with_dropout_and_running_statistics():
    common = {"task": {"ref": "small_tasks:noisy", "params": {}}, "training": {"stepsPerEpoch": 6}}
    never = trainer(manifest(**common), blueprints=["mlp"])
    culled = trainer(fixed("blocks.0", "mlp", **common, **IMPOSSIBLE), blueprints=["mlp"])
    never.train()
    culled.train()
    assert outcome(culled) == [Stage.CULLED]
    assert host(culled) == host(never)


@pytest.mark.parametrize("changes", [{}, IMPOSSIBLE], ids=["kept", "culled"])
def test_the_twin_makes_the_same_bits_in_another_process(changes):
    results = []
    for place in ("InProcess", "Process"):
        judge = {**changes.get("judge", {"cooldownSteps": 10}), "twin": place}
        run = trainer(fixed("blocks.0", "conv_block", judge=judge))
        run.train()
        (looks,) = run.history.verdicts.values()
        results.append((host(run), [(look["effect"], look["p_value"], look["twin_loss"]) for look in looks]))
    assert results[0] == results[1]


@pytest.mark.parametrize("place", ["InProcess", "Process"])
def test_the_watchdog_hears_of_a_twin_that_trains(place, monkeypatch):
    """Its epoch may last as long as the host's: nothing hangs meanwhile."""
    beats = []
    monkeypatch.setattr(Watchdog, "beat", lambda self: beats.append(1))
    run = trainer(fixed("blocks.0", "conv_block", judge={"cooldownSteps": 10, "twin": place}))
    run.train()
    twin_epochs = run.spec.seeds.grafting_epochs + run.spec.seeds.stabilization_epochs
    told = len(beats) - len(run.clock.steps)
    if place == "InProcess":
        assert told >= twin_epochs * run.spec.training.steps_per_epoch
    else:
        assert told >= twin_epochs, "quick epochs are told by their end"


def test_a_run_repeats_bit_for_bit():
    runs = [trainer(fixed("blocks.0", "conv_block")) for _ in range(2)]
    for run in runs:
        run.train()
    assert tensors_digest(runs[0].state().tensors) == tensors_digest(runs[1].state().tensors)


def test_a_second_look_must_pass_as_well():
    run = trainer(fixed("blocks.0", "conv_block", judge={"mode": "Twice", "cooldownSteps": 10}))
    run.train()
    (looks,) = run.history.verdicts.values()
    assert [look["stage"] for look in looks] == ["EVALUATING", "FINE_TUNING"][: len(looks)]
    kept = all(look["passed"] for look in looks)
    assert outcome(run) == ([] if kept else [Stage.CULLED])


def test_a_seed_on_trial_when_the_run_ends_is_dropped_for_the_twin():
    never = trainer(manifest())
    late = trainer(manifest())
    never.train()
    (artifact, *_) = [record.artifact_id for record in late.shelf.offers(late.shelf.catalogue)["blocks.0"]]
    settle = late.settler.settle

    def germinate_late():  # the controller itself would not: too little of the run is left
        if late.epoch == 9:
            late.bank.order(Command.germinate("blocks.0", artifact, blueprint="conv_block"))
        return settle()

    late.settler.settle = germinate_late
    late.train()
    assert outcome(late) == [Stage.CULLED]
    assert host(late) == host(never)


def test_without_a_judge_everything_is_kept_and_nothing_is_forked():
    run = trainer(fixed("blocks.0", "conv_block", judge={"mode": "Off"}))
    run.train()
    (seed,) = run.bank.seeds.values()
    assert seed.stage is Stage.FOSSILIZED
    assert run.history.verdicts == {}
    assert run.flops_by_purpose()["twin"] == 0
