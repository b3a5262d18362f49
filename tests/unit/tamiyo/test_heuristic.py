"""Does growing pay for the compute that remains? The heuristic's answers in clear cases."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo import Order, TamiyoController

HOST_STEP = 3.0 * 20_000 * 100


def decide(t: SimpleNamespace, view: Any, **parts: Any) -> tuple[list[Order], str]:
    controller = TamiyoController(t.spec(**parts))
    orders = controller.decide(view)
    return orders, controller.idle_reason


def budget(t: SimpleNamespace, epoch: int, epochs_worth: float) -> dict[str, float]:
    """A FLOPs limit that pays for so many epochs of the host in all."""
    steps = epochs_worth * t.STEPS
    return {
        "flops_used": epoch * t.STEPS * HOST_STEP,
        "flops_limit": steps * HOST_STEP,
        "remaining_fraction": 1.0 - epoch / epochs_worth,
    }


def test_grows_when_the_host_is_flat_and_compute_remains(t: SimpleNamespace) -> None:
    orders, _ = decide(t, t.view(20, 200, budget=budget(t, 20, 200)))
    assert [order.slot for order in orders] == ["blocks.0"]
    numbers = orders[0].numbers
    assert numbers["expected_loss_with"] < numbers["expected_loss_without"]
    assert numbers["advantage"] >= 0.005
    assert numbers["cost_twin_flops"] > 0.0


def test_does_not_grow_while_the_host_still_gains_more_by_itself(t: SimpleNamespace) -> None:
    orders, reason = decide(t, t.view(20, 200, losses=t.falling(20, 1.0), budget=budget(t, 20, 200)))
    assert orders == []
    assert "does not pay" in reason


def test_a_short_budget_is_better_spent_on_the_small_host(t: SimpleNamespace) -> None:
    """The same curve at the same epoch: growth pays over a long remainder, not over a short one."""
    fields = {"losses": t.falling(20, 0.3), "kernels": [t.kernel(flops=1000)]}
    short, reason = decide(t, t.view(20, 400, budget=budget(t, 20, 32), **fields))
    long, _ = decide(t, t.view(20, 400, budget=budget(t, 20, 300), **fields))
    assert short == []
    assert "does not pay" in reason
    assert len(long) == 1


def test_a_dearer_kernel_pays_less(t: SimpleNamespace) -> None:
    losses = [0.5 * (epoch + 1.0) ** -0.15 for epoch in range(20)]
    view = lambda flops: t.view(  # noqa: E731
        20, 200, losses=losses, kernels=[t.kernel(flops=flops)], budget=budget(t, 20, 120)
    )
    assert decide(t, view(1000))[0] != []
    assert decide(t, view(200_000))[0] == []


def test_never_below_the_minimum_remaining_fraction(t: SimpleNamespace) -> None:
    for share in (0.34, 0.1, 0.0):
        orders, reason = decide(t, t.view(20, 200, budget={"remaining_fraction": share}))
        assert orders == []
        assert "0.35" in reason
    assert decide(t, t.view(20, 200, budget={"remaining_fraction": 0.36}))[0] != []


def test_never_during_warm_up(t: SimpleNamespace) -> None:
    controller = {"warmup_epochs": 12}
    assert decide(t, t.view(11), controller=controller) == ([], "warming up until epoch 12")
    assert decide(t, t.view(12), controller=controller)[0] != []


def test_waits_while_one_epoch_of_the_host_brings_more_than_the_kernel(t: SimpleNamespace) -> None:
    losses = t.falling(30, 0.6)
    early, reason = decide(t, t.view(5, losses=losses[:5]))
    late, _ = decide(t, t.view(20, losses=losses[:20]))
    assert early == []
    assert "still gains more" in reason
    assert len(late) == 1


def test_overfitting_is_not_answered_with_capacity(t: SimpleNamespace) -> None:
    rising = [0.5 + 0.01 * epoch for epoch in range(20)]
    orders, reason = decide(t, t.view(losses=rising, train_losses=t.falling(20)))
    assert orders == []
    assert "overfits" in reason
    # a host that gets worse on both is another matter
    assert decide(t, t.view(losses=rising, train_losses=rising))[0] != []


def test_noise_is_not_a_plateau(t: SimpleNamespace) -> None:
    """Four noisy values leave every slope likely; forty do not."""
    wild = [0.5 * (1.3 if epoch % 2 else 0.8) for epoch in range(40)]
    few = t.view(7, 200, losses=[2.0, 1.4, 1.1, *wild[:4]], budget=budget(t, 7, 200))
    many = t.view(40, 200, losses=wild, budget=budget(t, 40, 200))
    assert decide(t, few)[0] == []
    assert decide(t, many)[0] != []


def test_losses_from_before_a_change_say_nothing(t: SimpleNamespace) -> None:
    sim = t.Sim(t.spec(seeds={"max_per_slot": 4}), names=["blocks.0"])
    sim.run(TamiyoController(sim.spec))
    epochs = [epoch for epoch, _ in sim.germinations()]
    settled = [epoch for epoch, order in sim.history if order.target.name == "EVALUATING"]
    assert len(epochs) >= 2
    assert all(later - change >= 4 for change, later in zip(settled, epochs[1:], strict=False))


def test_culled_seeds_make_it_more_reluctant(t: SimpleNamespace) -> None:
    """Where no seed earns its place, fewer are tried than where each does."""
    names = [f"blocks.{i}" for i in range(40)]
    losses = [0.5 * (epoch + 1.0) ** -0.02 for epoch in range(200)]
    parts = {"training": {"epochs": 200}, "controller": {"minimum_improvement": 0.03}}

    def tried(promoted: bool) -> int:
        fates = {f"{name}/0": promoted for name in names}
        sim = t.Sim(t.spec(**parts), names=names, losses=losses, verdicts=fates)
        sim.run(TamiyoController(sim.spec))
        return len(sim.germinations())

    assert 1 <= tried(False) < tried(True)


@pytest.mark.parametrize("losses", [[float("nan")] * 20, [0.0] * 20, [-1.0] * 20, [float("inf")] * 20, []])
def test_odd_losses_never_raise(t: SimpleNamespace, losses: list[float]) -> None:
    orders, reason = decide(t, t.view(losses=losses))
    assert orders or reason
