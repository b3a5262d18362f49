"""What goes wrong in training returns the run to its last good state, exactly, and the run goes on."""

from __future__ import annotations

import pytest
import torch

from esper.errors import Diverged
from esper.tolaria.state import tensors_digest
from leyline.lifecycle import Stage
from runs import fixed, manifest, trainer

EPOCHS = 12


def bits(run) -> str:
    return tensors_digest(run.state().tensors)


def poison_loss(run, at_epoch: int, times: int = 1, factor: float = float("nan")):
    """Make the loss of one step of an epoch wrong, ``times`` times over."""
    step, left = run.line.train_step, [times]

    def poisoned(order, index, rate):
        loss, norm = step(order, index, rate)
        if run.epoch + 1 == at_epoch and index >= 3 and left[0] > 0:
            left[0] -= 1
            with torch.no_grad():
                next(run.line.model.parameters()).mul_(2.0)
            return loss * factor, norm
        return loss, norm

    run.line.train_step = poisoned


def spy_rollbacks(run):
    """Record the last committed state and the state right after each rollback."""
    seen = []
    commit, back = run.commit, run.roll_back

    def committed(*args, **kwargs):
        commit(*args, **kwargs)
        run.last_committed = bits(run)

    def rolled(fault):
        back(fault)
        seen.append((str(fault), run.epoch, bits(run)))

    run.commit, run.roll_back = committed, rolled
    return seen


def test_nan_returns_the_exact_last_good_state_and_the_run_ends_well():
    run = trainer(manifest())
    seen = spy_rollbacks(run)
    poison_loss(run, 5)
    run.train()
    ((fault, epoch, state),) = seen
    assert "nan" in fault
    assert epoch == 4
    undisturbed = trainer(manifest(training={"epochs": EPOCHS}))
    states = {}
    commit = undisturbed.commit
    undisturbed.commit = lambda *a, **k: (commit(*a, **k), states.__setitem__(undisturbed.epoch, bits(undisturbed)))
    undisturbed.train()
    assert state == states[4]
    assert run.epoch == EPOCHS
    assert run.history.rollbacks == 1
    assert run.line.rate_scale == 0.5  # no seed to blame: the same step would fail again


def test_a_loss_spike_is_rolled_back():
    run = trainer(manifest(training={"epochs": 12, "stepsPerEpoch": 20}))
    seen = spy_rollbacks(run)
    poison_loss(run, 8, times=9, factor=100.0)
    run.train()
    assert len(seen) == 1
    assert "loss spike" in seen[0][0]
    assert seen[0][1] == 7


def test_a_parameter_that_is_not_finite_is_noticed_at_the_epochs_end():
    run = trainer(manifest())
    seen = spy_rollbacks(run)
    advance, done = run.advance, []

    def corrupted(epoch, progress, watchdog):
        stats = advance(epoch, progress, watchdog)
        if epoch == 6 and not done:
            done.append(epoch)
            with torch.no_grad():
                next(iter(run.line.model.parameters())).view(-1)[0] = float("inf")
        return stats

    run.advance = corrupted
    run.train()
    assert [epoch for _, epoch, _ in seen] == [5]


def test_a_corrupted_seed_state_is_rolled_back_without_touching_the_learning_rate():
    run = trainer(fixed("blocks.0", "conv_block"))
    seen = spy_rollbacks(run)
    observe, done = run.observe, []

    def corrupted(epoch, stats):
        if epoch == 10 and not done:
            done.append(run.last_committed)
            run.bank.state.arrays["lifecycle"][0] = 3  # behind the back of whoever writes the checksum
        observe(epoch, stats)

    run.observe = corrupted
    run.train()
    ((fault, epoch, state),) = seen
    assert "checksum" in fault.lower() or "crc" in fault.lower()
    assert epoch == 9
    assert state == done[0]
    assert run.line.rate_scale == 1.0
    (seed,) = run.bank.seeds.values()
    assert seed.stage is Stage.FOSSILIZED


def test_a_fault_while_a_seed_touches_the_host_locks_the_seed_and_keeps_the_twin():
    never, run = trainer(manifest()), trainer(fixed("blocks.0", "conv_block"))
    seen = spy_rollbacks(run)
    poison_loss(run, 5)
    run.train()
    never.train()
    (seed,) = run.bank.seeds.values()
    assert seed.stage is Stage.ROLLED_BACK
    assert len(seen) == 1
    assert tensors_digest(run.bank.host_tensors()) == tensors_digest(never.bank.host_tensors())
    assert run.line.optimizer.groups == ("host",)


def test_too_many_rollbacks_end_the_run_with_advice():
    run = trainer(manifest(governor={"maxRollbacks": 2}))
    poison_loss(run, 3, times=10**6)
    with pytest.raises(Diverged, match=r"after 2 rollbacks.*learningRate"):
        run.train()
    assert run.epoch == 2


def test_compute_that_was_undone_stays_on_the_bill():
    clean, run = trainer(manifest()), trainer(manifest())
    poison_loss(run, 5)
    clean.train()
    run.train()
    assert run.ledger.total > clean.ledger.total


def test_a_rollback_can_come_from_the_disk(tmp_path):
    run = trainer(manifest(), tmp_path)
    run.recorder.open(run.task.metric, None, 0)
    seen = spy_rollbacks(run)
    poison_loss(run, 5)
    run.train()
    run.recorder.close()
    again = trainer(manifest(), tmp_path)
    assert again.resume() is not None
    assert bits(again) == bits(run)
    assert len(seen) == 1
