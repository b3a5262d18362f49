"""The bill of a germination, reckoned by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

HOST_STEP = 3.0 * 20_000 * 100  # three passes, forward FLOPs per sample, samples
KERNEL_STEP = 3.0 * 20_000 * 100


def bill(t: SimpleNamespace, view: Any = None, probed: int = 0, **parts: Any) -> Any:
    view = view or t.view()
    slot = next(iter(view.slots.values()))
    return t.CostModel(t.spec(**parts)).germination(view, slot, t.kernel(), probed=probed)


def test_the_parts_of_the_bill(t: SimpleNamespace) -> None:
    cost = bill(t, probed=3, controller={"placement": "Probe", "probe_steps": 50})
    assert cost.kernel_step == KERNEL_STEP
    assert cost.step_ratio == pytest.approx(KERNEL_STEP / HOST_STEP)
    assert cost.probe == 3 * 50 * (HOST_STEP + KERNEL_STEP)
    assert cost.isolation == 0.0  # objective None
    assert cost.twin == (2 + 1) * t.STEPS * HOST_STEP
    assert cost.judging == 20 * (2 * HOST_STEP + KERNEL_STEP)
    assert cost.once == cost.probe + cost.twin + cost.judging
    # one epoch of loading, two of grafting, one of stabilization, one of fine-tuning; dearer after loading
    assert cost.trial == cost.once + 5 * t.STEPS * HOST_STEP + 4 * t.STEPS * KERNEL_STEP
    assert cost.total == cost.once + 39 * t.STEPS * KERNEL_STEP  # 40 epochs are left


def test_a_module_that_runs_twice_costs_twice(t: SimpleNamespace) -> None:
    view = t.view(slot_views=t.slots(calls=2))
    assert bill(t, view).kernel_step == 2 * KERNEL_STEP


@pytest.mark.parametrize(
    ("judge", "twin_epochs", "looks"),
    [({"mode": "Once"}, 3, 1), ({"mode": "Twice"}, 4, 2), ({"mode": "Off"}, 0, 0)],
)
def test_the_judge_is_paid_for_as_often_as_it_looks(
    t: SimpleNamespace, judge: dict[str, Any], twin_epochs: int, looks: int
) -> None:
    cost = bill(t, judge={**judge, "replicates": 2})
    assert cost.twin == twin_epochs * t.STEPS * HOST_STEP
    assert cost.judging == looks * 2 * 20 * (2 * HOST_STEP + KERNEL_STEP)


@pytest.mark.parametrize(("objective", "step"), [("Reconstruction", KERNEL_STEP), ("Shadow", KERNEL_STEP + HOST_STEP)])
def test_isolation_is_paid_for_by_objective(t: SimpleNamespace, objective: str, step: float) -> None:
    cost = bill(t, seeds={"objective": objective, "isolation_epochs": 2})
    assert cost.isolation == 2 * t.STEPS * step


def test_without_a_limit_growing_takes_no_steps_away(t: SimpleNamespace) -> None:
    cost = bill(t)
    assert cost.steps_with == cost.steps_without == 40 * t.STEPS


def test_with_a_limit_the_same_compute_buys_fewer_steps(t: SimpleNamespace) -> None:
    view = t.view(budget={"flops_used": 0.0, "flops_limit": 1000 * HOST_STEP})
    cost = bill(t, view)
    assert cost.steps_without == 1000
    assert cost.steps_with == pytest.approx(
        (1000 * HOST_STEP - cost.once + t.STEPS * KERNEL_STEP) / (HOST_STEP + KERNEL_STEP)
    )


def test_flops_promised_to_others_are_not_there(t: SimpleNamespace) -> None:
    view = t.view(budget={"flops_used": 0.0, "flops_limit": 1000 * HOST_STEP})
    costs, slot = t.CostModel(t.spec()), next(iter(view.slots.values()))
    free = costs.germination(view, slot, t.kernel())
    pressed = costs.germination(view, slot, t.kernel(), reserved=100 * HOST_STEP)
    assert pressed.steps_without == free.steps_without - 100
    assert pressed.steps_with < free.steps_with


def test_steps_of_an_epoch_come_from_the_steps_done_if_not_told(t: SimpleNamespace) -> None:
    costs = t.CostModel(t.spec())
    assert costs.steps_per_epoch(t.view(10, budget={"steps_per_epoch": 0})) == t.STEPS
    assert costs.steps_per_epoch(t.view(0, losses=[], budget={"steps_per_epoch": 0})) == 0.0


def test_samples_of_a_step_come_from_the_manifest_if_not_told(t: SimpleNamespace) -> None:
    view = t.view(budget={"samples_per_step": 0})
    parts = {"training": {"batch_size": 50, "gradient_accumulation": 4}}
    assert bill(t, view, **parts).kernel_step == 3.0 * 20_000 * 200
