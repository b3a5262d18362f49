"""Builds what the controller sees from what the run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esper.tamiyo import BudgetView, Candidate, ProbeResult, RunView, SeedView, SlotView
from esper.tamiyo.views import Verdict as VerdictView
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper.kasmina import Seed, SeedBank
    from esper.tolaria.costs import Costs
    from esper.tolaria.history import History
    from esper.urza import KernelRecord
    from leyline.resources import TrainingRun


def seed_view(seed: Seed, history: History) -> SeedView:
    """One seed in plain numbers."""
    looks = history.verdicts.get(seed.id, [])
    verdict = None
    if looks:
        last = looks[-1]
        verdict = VerdictView(
            promoted=last["passed"],
            reason=last["reason"],
            numbers={k: v for k, v in last.items() if isinstance(v, int | float) and not isinstance(v, bool)},
            stage=Stage[last["stage"]],
        )
    return SeedView(
        id=seed.id, slot=seed.slot, stage=seed.stage, ready=seed.ready, entered_epoch=seed.entered_epoch,
        blueprint=seed.blueprint, artifact_id=seed.artifact_id or "", verdict=verdict,
        trainable=seed.trainable,
        reason=seed.reason,
    )  # fmt: skip


def run_view(
    run: TrainingRun, bank: SeedBank, history: History, *, epoch: int, step: int, costs: Costs,
    statistics: Mapping[str, Any], kernels: Mapping[str, Sequence[KernelRecord]],
    probe: Callable[[Sequence[Candidate]], Mapping[Candidate, ProbeResult]],
) -> RunView:  # fmt: skip
    """The run after ``epoch`` finished epochs."""
    seeds = {seed.id: seed_view(seed, history) for seed in bank.seeds.values()}
    slots = {}
    for slot_id, slot in bank.slots.items():
        own = [seeds[s.id] for s in bank.seeds.values() if s.slot == slot_id]
        slots[slot_id] = SlotView(
            id=slot_id,
            interface=slot.interface,
            statistics=statistics.get(slot_id, {}),
            seeds=own,
            free=bank.free(slot_id),
            calls=slot.calls,
        )
    return RunView(
        epoch=epoch,
        epochs=run.spec.training.epochs,
        step=step,
        budget=BudgetView(
            parameters_used=costs.parameters,
            flops_used=costs.spent,
            step_flops=costs.step,
            remaining_fraction=costs.remaining_fraction,
            parameters_limit=run.spec.budget.parameters,
            flops_limit=run.spec.budget.training_flops,
            steps_per_epoch=costs.steps_per_epoch,
            samples_per_step=costs.samples_per_step,
            cooldown_steps=costs.cooldown_steps,
        ),
        controller_losses=tuple(history.controller_losses),
        controller_metrics=tuple(history.controller_metrics),
        train_losses=tuple(history.train_losses),
        slots=slots,
        seeds=seeds,
        kernels=kernels,
        loss_spike_epoch=history.spike_epoch,
        evicted=frozenset(history.evicted),
        probe=probe,
        run=run.metadata.name,
    )
