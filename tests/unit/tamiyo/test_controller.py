"""What holds whatever the policy: limits, embargoes, risk, budget, refusals, the log, kernels, sealed orders."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from esper.errors import LibraryError
from esper.tamiyo import Decision, Order, OrderKind, SeedView, TamiyoController
from leyline.lifecycle import Stage

ALWAYS = {"policy": "Always", "placement": "Earliest"}


def always(t: SimpleNamespace, **parts: Any) -> TamiyoController:
    controller = {**ALWAYS, **parts.pop("controller", {})}
    return TamiyoController(t.spec(controller=controller, **parts))


def told(controller: TamiyoController) -> str:
    last = controller.log.last
    assert last is not None
    return " | ".join([last.reason, *last.refused])


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "most"),
    [
        ({"seeds": {"max_active": 2}}, 2),
        ({"seeds": {"max_active": 3, "max_total": 3}}, 3),
        ({"seeds": {"max_active": 3}, "controller": {"max_germinations": 1}}, 1),
    ],
)
def test_no_more_seeds_at_once_than_allowed(t: SimpleNamespace, parts: dict[str, Any], most: int) -> None:
    controller = always(t, **parts)
    assert len(controller.decide(t.view())) == most


def test_max_total_counts_what_was_kept_but_not_what_was_culled(t: SimpleNamespace) -> None:
    sim = t.Sim(
        t.spec(controller={**ALWAYS, "embargo_epochs": 1}, seeds={"max_total": 2}), verdicts={"blocks.0/0": False}
    )
    sim.run(TamiyoController(sim.spec))
    assert sum(seed.stage is Stage.FOSSILIZED for seed in sim.seeds.values()) == 2
    assert len(sim.germinations()) == 3


def test_max_germinations_counts_culled_seeds(t: SimpleNamespace) -> None:
    sim = t.Sim(
        t.spec(controller={**ALWAYS, "max_germinations": 2, "embargo_epochs": 1}), verdicts={"blocks.0/0": False}
    )
    sim.run(TamiyoController(sim.spec))
    assert len(sim.germinations()) == 2


def test_max_per_slot_allows_a_second_seed_after_the_first_is_settled(t: SimpleNamespace) -> None:
    sim = t.Sim(t.spec(controller=ALWAYS, seeds={"max_per_slot": 2, "max_active": 2}), names=["blocks.0"])
    sim.run(TamiyoController(sim.spec))
    assert [epoch for epoch, _ in sim.germinations()] == [1, 6]


def test_a_full_slot_is_left_alone(t: SimpleNamespace) -> None:
    controller = always(t)
    assert controller.decide(t.view(slot_views=t.slots(free=False))) == []
    assert "slot is full (3)" in told(controller)


def test_no_seed_is_begun_that_can_not_be_fossilized_in_time(t: SimpleNamespace) -> None:
    assert len(always(t).decide(t.view(55))) == 1
    controller = always(t)
    assert controller.decide(t.view(56)) == []
    assert "needs 5 epochs" in controller.idle_reason


# -- embargo -----------------------------------------------------------------------------------------------------------


def test_slot_and_kernel_rest_after_a_cull(t: SimpleNamespace) -> None:
    spec = t.spec(controller={**ALWAYS, "embargo_epochs": 8})
    sim = t.Sim(spec, names=["blocks.0", "blocks.1"], kernels=[t.kernel(1), t.kernel(2, "gate", parameters=300)],
                verdicts={"blocks.0/0": False})  # fmt: skip
    sim.run(TamiyoController(spec))
    (culled,) = [epoch for epoch, _, _ in sim.fell]
    (_, first), (second_at, second), (third_at, third) = sim.germinations()
    assert first.slot == "blocks.0"
    assert (second.slot, second.artifact_id) != (first.slot, first.artifact_id)
    assert (second.slot, second.blueprint) == ("blocks.1", "gate")
    assert second_at == culled
    assert third.slot == "blocks.0"
    assert third_at >= culled + 8


def test_a_kernel_that_does_not_load_is_not_asked_for_again_soon(t: SimpleNamespace) -> None:
    sim = t.Sim(t.spec(controller=ALWAYS), kernels=[t.kernel(1)], load_failures=frozenset({"blocks.0/0"}))
    controller = TamiyoController(sim.spec)
    sim.run(controller)
    (fell, _, _) = sim.fell[0]
    assert sim.germinations()[1][0] == fell + 5
    assert any(report.reason == "the kernel could not be loaded" for report in reports(t, load_failures={"blocks.0/0"}))


def test_a_kernel_that_crashed_is_never_used_again(t: SimpleNamespace) -> None:
    kernels = [t.kernel(1, parameters=500), t.kernel(2, "gate", parameters=300)]
    sim = t.Sim(t.spec(controller=ALWAYS), kernels=kernels, crashes=frozenset({"blocks.0/0"}))
    sim.run(TamiyoController(sim.spec))
    used = [order.blueprint for _, order in sim.germinations()]
    assert used[0] == "conv"
    assert set(used[1:]) == {"gate"}


def test_evicted_kernels_are_not_offered(t: SimpleNamespace) -> None:
    controller = always(t)
    assert controller.decide(t.view(evicted=[t.artifact(1)])) == []
    assert "embargo" in told(controller)


def test_cancelling_puts_no_embargo_on_the_slot(t: SimpleNamespace) -> None:
    spec = t.spec(controller={**ALWAYS, "embargo_epochs": 4})
    sim = t.Sim(spec, names=["blocks.0"], spikes=frozenset({2}))
    sim.run(TamiyoController(spec), 12)
    kinds = [(epoch, order.kind) for epoch, order in sim.history if order.kind is not OrderKind.ADVANCE]
    assert kinds[0] == (1, OrderKind.GERMINATE)
    assert kinds[1] == (2, OrderKind.CANCEL)
    assert kinds[2] == (6, OrderKind.GERMINATE)  # calm again four epochs after the spike, and at once


def test_no_germination_for_a_while_after_a_loss_spike(t: SimpleNamespace) -> None:
    for epoch, allowed in ((20, False), (24, False), (25, True)):
        controller = always(t)
        assert bool(controller.decide(t.view(epoch, loss_spike_epoch=20))) is allowed
    assert "loss spike" in told(always_after(t, always(t), 21))


def always_after(t: SimpleNamespace, controller: TamiyoController, epoch: int) -> TamiyoController:
    controller.decide(t.view(epoch, loss_spike_epoch=20))
    return controller


# -- risk --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "approved", "allowed"),
    [
        ({"risk": 0.6}, [], True),
        ({"risk": 0.61}, [], False),
        ({"risk": 0.61}, ["conv"], True),
        ({"risk": 0.61}, ["other"], False),
        ({"risk": 0.9, "approved": True}, [], True),
        ({"tags": ["quarantined"]}, [], False),
        ({"tags": ["quarantined"]}, ["conv"], True),
    ],
)
def test_risky_kernels_need_approval(
    t: SimpleNamespace, fields: dict[str, Any], approved: list[str], allowed: bool
) -> None:
    controller = always(t, controller={"approved": approved})
    assert bool(controller.decide(t.view(kernels=[t.kernel(**fields)]))) is allowed
    if not allowed:
        assert "approved" in told(controller)


def test_only_blueprints_of_the_manifest_are_used(t: SimpleNamespace) -> None:
    controller = always(t, kernels={"blueprints": ["gate"]})
    kernels = [t.kernel(1, "conv", parameters=900), t.kernel(2, "gate")]
    (order,) = controller.decide(t.view(kernels=kernels))
    assert order.blueprint == "gate"


# -- budget ------------------------------------------------------------------------------------------------------------


def test_parameters_are_kept_within_the_limit(t: SimpleNamespace) -> None:
    controller = always(t)
    assert controller.decide(t.view(budget={"parameters_limit": 999})) == []
    assert "1000 parameters would exceed budget.parameters 999" in told(controller)
    assert len(always(t).decide(t.view(budget={"parameters_limit": 1000}))) == 1


def test_a_smaller_kernel_is_taken_where_the_best_does_not_fit(t: SimpleNamespace) -> None:
    kernels = [t.kernel(1, parameters=500), t.kernel(2, "gate", parameters=50)]
    (order,) = always(t).decide(t.view(kernels=kernels, budget={"parameters_limit": 700}))
    assert order.blueprint == "gate"


def test_parameters_of_seeds_that_are_not_loaded_yet_are_spoken_for(t: SimpleNamespace) -> None:
    controller = always(t, seeds={"max_active": 3})
    orders = controller.decide(t.view(budget={"parameters_limit": 1400}))
    assert len(orders) == 2
    waiting = [
        SeedView(f"{o.slot}/0", o.slot, Stage.LOADING, artifact_id=o.artifact_id, blueprint=o.blueprint) for o in orders
    ]
    assert controller.decide(t.view(21, seeds=waiting, budget={"parameters_limit": 1400})) == []
    loaded = [dataclasses.replace(seed, stage=Stage.TRAINING) for seed in waiting]
    full = {"parameters_limit": 1400, "parameters_used": 1400}
    assert controller.decide(t.view(22, seeds=loaded, budget=full)) == []


def test_a_trial_that_the_flops_do_not_cover_is_not_begun(t: SimpleNamespace) -> None:
    view = t.view()
    cost = t.CostModel(t.spec()).germination(view, view.slots["blocks.0"], t.kernel())
    enough = {"flops_used": 0.0, "flops_limit": cost.trial}
    assert len(always(t).decide(t.view(budget=enough))) == 1
    controller = always(t)
    assert controller.decide(t.view(budget={"flops_used": 1.0, "flops_limit": cost.trial})) == []
    assert "budget.trainingFlops" in told(controller)


def test_flops_promised_to_one_seed_are_not_promised_to_another(t: SimpleNamespace) -> None:
    view = t.view()
    cost = t.CostModel(t.spec()).germination(view, view.slots["blocks.0"], t.kernel())
    two = {"flops_used": 0.0, "flops_limit": cost.trial + cost.once}
    assert len(always(t, seeds={"max_active": 3}).decide(t.view(budget=two))) == 2
    less = {"flops_used": 1.0, "flops_limit": cost.trial + cost.once}
    assert len(always(t, seeds={"max_active": 3}).decide(t.view(budget=less))) == 1


def test_a_kernel_without_parameters_is_grown_alone(t: SimpleNamespace) -> None:
    kernels = [t.kernel(parameters=0, flops=0)]
    assert len(always(t, seeds={"max_active": 3}).decide(t.view(kernels=kernels))) == 1
    flying = SeedView("blocks.0/0", "blocks.0", Stage.TRAINING)
    assert always(t, seeds={"max_active": 3}).decide(t.view(kernels=kernels, seeds=[flying])) == []
    free = always(t, seeds={"max_active": 3}, judge={"mode": "Off"})
    assert len(free.decide(t.view(kernels=kernels))) == 3


def test_a_seed_that_fell_is_not_taken_for_the_next_one_in_its_place(t: SimpleNamespace) -> None:
    """Without an embargo a slot is asked for again in the same breath, while the fallen seed is still in view."""
    controller = always(t, controller={"embargo_epochs": 0}, seeds={"max_active": 2})
    places = {"slot_views": t.slots(["blocks.0", "blocks.1"]), "budget": {"parameters_limit": 1000}}
    (order,) = controller.decide(t.view(20, **places))
    fallen = SeedView("blocks.0/0", order.slot, Stage.CULLED, artifact_id=order.artifact_id)
    (again,) = controller.decide(t.view(21, seeds=[fallen], **places))
    second = SeedView("blocks.0/1", again.slot, Stage.LOADING, artifact_id=again.artifact_id)
    assert controller.decide(t.view(21, seeds=[fallen, second], **places)) == []
    assert "1400 parameters would exceed" in told(controller)


# -- refused by the executor -------------------------------------------------------------------------------------------


def test_a_refused_germination_does_not_count_and_its_kernel_rests(t: SimpleNamespace) -> None:
    controller = always(t, controller={"max_germinations": 1})
    kernels = [t.kernel(1, parameters=500), t.kernel(2, "gate")]
    (order,) = controller.decide(t.view(kernels=kernels))
    controller.refused(order, "bad signature", 20)
    (again,) = controller.decide(t.view(kernels=kernels))
    assert again.blueprint == "gate"
    assert "bad signature" in [reason for decision in controller.log for reason in decision.refused]


def test_an_order_that_never_came_about_does_not_count(t: SimpleNamespace) -> None:
    controller = always(t, controller={"max_germinations": 1})
    assert len(controller.decide(t.view(20))) == 1
    assert controller.decide(t.view(21)) == []  # the only kernel rests
    assert len(controller.decide(t.view(26))) == 1


def test_a_refused_advance_is_not_repeated_at_the_same_boundary(t: SimpleNamespace) -> None:
    controller = always(t)
    ready = SeedView("blocks.0/0", "blocks.0", Stage.GRAFTING, ready=True)
    (order,) = controller.decide(t.view(20, seeds=[ready]))
    controller.refused(order, "not now", 20)
    assert controller.decide(t.view(20, seeds=[ready])) == []
    assert len(controller.decide(t.view(21, seeds=[ready]))) == 1


# -- the log -----------------------------------------------------------------------------------------------------------


def test_doing_nothing_is_stored_once_with_its_reason_and_counted(t: SimpleNamespace) -> None:
    controller = TamiyoController(t.spec(controller={"policy": "Never"}))
    for epoch in range(5, 15):
        controller.decide(t.view(epoch))
    (decision,) = controller.log
    assert decision.reason == "policy Never does not grow"
    assert (decision.epoch, decision.last_epoch, decision.repeats) == (5, 14, 9)


def test_decisions_are_handed_on_once_and_orders_always(t: SimpleNamespace) -> None:
    seen: list[Decision] = []
    sim = t.Sim(t.spec())
    controller = TamiyoController(sim.spec, on_decision=seen.append)
    sim.run(controller)
    assert [order for decision in seen for order in decision.orders] == [order for _, order in sim.history]
    assert all(decision.reason for decision in seen)
    assert len(seen) == len(controller.log)
    assert all(Decision.from_dict(d.to_dict()) == d for d in controller.log)
    assert all(Order.from_dict(order.to_dict()) == order for _, order in sim.history)


def test_the_log_is_bounded(t: SimpleNamespace) -> None:
    controller = always(t)
    for epoch in range(1200):
        too_large = t.kernel(parameters=1000 + epoch)  # another reason each time
        controller.decide(t.view(epoch % 50, kernels=[too_large], budget={"parameters_limit": 700}))
    assert len(controller.log) == 512


def test_idle_reason_is_empty_after_an_order(t: SimpleNamespace) -> None:
    controller = always(t)
    assert controller.decide(t.view())
    assert controller.idle_reason == ""


# -- where kernels come from -------------------------------------------------------------------------------------------


class Shelf:
    def __init__(self, kernels: list[Any], broken: bool = False) -> None:
        self.kernels, self.broken = kernels, broken
        self.queries: list[Any] = []

    def query(self, query: Any) -> list[Any]:
        self.queries.append(query)
        if self.broken:
            raise LibraryError("the library is away")
        return self.kernels


def without_offers(t: SimpleNamespace, **fields: Any) -> Any:
    return dataclasses.replace(t.view(**fields), kernels={})


def test_the_library_is_asked_once_per_interface(t: SimpleNamespace) -> None:
    shelf = Shelf([t.kernel()])
    spec = t.spec(controller=ALWAYS, kernels={"blueprints": ["conv"], "strategies": ["Fast", "Standard"]})
    controller = TamiyoController(spec, shelf, hardware="x86_64-avx512", toolchain="00000000")
    (order,) = controller.decide(without_offers(t, slot_views=t.slots([f"s{i}" for i in range(50)])))
    assert order.artifact_id == t.artifact(1)
    (query,) = shelf.queries
    assert (query.interface, query.hardware, query.toolchain) == (t.INTERFACE, "x86_64-avx512", "00000000")
    assert (tuple(query.strategies), tuple(query.blueprints)) == (("fast", "standard"), ("conv",))


def test_a_library_that_is_away_stops_growth_not_training(t: SimpleNamespace) -> None:
    shelf = Shelf([t.kernel()], broken=True)
    controller = TamiyoController(t.spec(controller=ALWAYS), shelf)
    assert controller.decide(without_offers(t)) == []
    assert "the library is away" in told(controller)
    shelf.broken = False
    assert len(controller.decide(without_offers(t))) == 1


def test_what_the_view_offers_comes_first(t: SimpleNamespace) -> None:
    shelf = Shelf([t.kernel(9, "other", parameters=9000)])
    (order,) = TamiyoController(t.spec(controller=ALWAYS), shelf).decide(t.view())
    assert order.blueprint == "conv"
    assert shelf.queries == []


def test_without_kernels_it_says_so(t: SimpleNamespace) -> None:
    controller = always(t)
    assert controller.decide(without_offers(t)) == []
    assert "no kernel is on offer" in told(controller)


# -- reports -----------------------------------------------------------------------------------------------------------


def reports(t: SimpleNamespace, epochs: int = 60, **fates: Any) -> list[Any]:
    seen: list[Any] = []
    fates = {name: frozenset(value) if isinstance(value, set) else value for name, value in fates.items()}
    sim = t.Sim(t.spec(controller=ALWAYS), **fates)
    controller = TamiyoController(sim.spec, on_report=seen.append)
    sim.run(controller, epochs)
    sim.advance()
    controller.conclude(sim.view())
    return seen


def test_every_finished_seed_is_reported_once_with_its_outcome(t: SimpleNamespace) -> None:
    seen = reports(t, verdicts={"blocks.0/0": False}, crashes={"blocks.1/0"}, load_failures={"blocks.2/0"})
    outcomes = {report.seed: report.outcome for report in seen}
    assert len(outcomes) == len(seen)
    assert outcomes["blocks.0/0"] == outcomes["blocks.1/0"] == "CULLED"
    (first,) = [report for report in seen if report.seed == "blocks.0/0"]
    assert first.measurements["effect"] == -0.01
    assert "no better" in first.reason
    assert first.blueprint == "conv"
    assert (first.germinated_epoch, first.finished_epoch) == (1, 5)
    assert first.pre_loss is not None
    assert first.measurements["epoch_grafting"] == 2.0


def test_a_kept_seed_is_reported_with_what_it_brought(t: SimpleNamespace) -> None:
    kept = [report for report in reports(t) if report.outcome == "FOSSILIZED"]
    assert [report.seed for report in kept] == ["blocks.0/0", "blocks.1/0", "blocks.2/0"]
    assert all(report.measurements["effect"] == 0.05 for report in kept)


def test_a_seed_that_ended_after_the_last_decision_is_reported_too(t: SimpleNamespace) -> None:
    sim = t.Sim(t.spec(controller=ALWAYS))
    seen: list[Any] = []
    controller = TamiyoController(sim.spec, on_report=seen.append)
    sim.run(controller, 3)
    (seed_id,) = sim.seeds
    sim.seeds[seed_id] = dataclasses.replace(sim.seeds[seed_id], stage=Stage.CULLED, reason="the run ended")
    controller.conclude(sim.view())
    assert [(report.seed, report.reason) for report in seen] == [(seed_id, "the run ended")]


def test_a_rolled_back_seed_is_reported_even_if_the_checkpoint_is_older_than_it(t: SimpleNamespace) -> None:
    seen: list[Any] = []
    controller = TamiyoController(t.spec(controller={"policy": "Never"}), on_report=seen.append)
    locked = SeedView("blocks.0/0", "blocks.0", Stage.ROLLED_BACK, reason="rolled back: loss is NaN")
    for epoch in (20, 21):
        controller.decide(t.view(epoch, seeds=[locked]))
    assert [(report.outcome, report.reason) for report in seen] == [("ROLLED_BACK", "rolled back: loss is NaN")]


def test_reports_wait_while_nobody_takes_them_and_survive_a_restart(t: SimpleNamespace) -> None:
    away, seen = True, []

    def receive(report: Any) -> None:
        if away:
            raise LibraryError("away")
        seen.append(report.seed)

    sim = t.Sim(t.spec(controller=ALWAYS))
    controller = TamiyoController(sim.spec, on_report=receive)
    sim.run(controller, 20)
    assert seen == []
    away = False
    revived = t.through_json(controller, TamiyoController(sim.spec, on_report=receive))
    sim.run(revived)
    assert seen == ["blocks.0/0", "blocks.1/0", "blocks.2/0"]
