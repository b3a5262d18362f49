"""Where the heuristic grows, and what it falls back to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo import Candidate, Order, ProbeResult, TamiyoController
from esper.tamiyo.placement import MAX_PROBED, shortlist
from leyline.lifecycle import Stage


class Probe:
    """Answers with what it was given and remembers what it was asked."""

    def __init__(self, drops: Mapping[str, float], norms: Mapping[str, float] | None = None) -> None:
        self.drops, self.norms = drops, norms or {}
        self.asked: list[list[str]] = []
        self.seen: list[tuple[str, str]] = []

    def __call__(self, candidates: Sequence[Candidate]) -> dict[Candidate, ProbeResult]:
        self.asked.append([candidate.slot for candidate in candidates])
        self.seen += [(candidate.slot, candidate.artifact_id) for candidate in candidates]
        return {
            c: ProbeResult(self.drops.get(c.slot, math.nan), self.norms.get(c.slot, math.nan), 4000.0)
            for c in candidates
        }


def grow(t: SimpleNamespace, placement: str, probe: Probe | None = None, **fields: Any) -> list[Order]:
    """Asks for 3 probes of 20 steps with 180 epochs of 40 left: within the 2 % that probing may take."""
    controller = TamiyoController(t.spec(controller={"placement": placement, "probe_steps": 20}))
    return controller.decide(t.view(20, 200, probe=probe, **fields))


def test_the_probe_finds_the_slot_that_gains_most(t: SimpleNamespace) -> None:
    probe = Probe({"blocks.0": 0.01, "blocks.1": 0.01, "blocks.2": 0.2})
    (order,) = grow(t, "Probe", probe)
    assert order.slot == "blocks.2"
    assert probe.asked == [["blocks.0", "blocks.1", "blocks.2"]]
    assert order.numbers["placement_signal"] == 0.2
    assert order.numbers["probed"] == 3.0


def test_near_ties_go_to_the_earliest_slot(t: SimpleNamespace) -> None:
    (order,) = grow(t, "Probe", Probe({"blocks.0": 0.118, "blocks.1": 0.119, "blocks.2": 0.12}))
    assert order.slot == "blocks.0"


def test_a_drop_that_costs_too_many_flops_does_not_win(t: SimpleNamespace) -> None:
    cheap, dear = t.kernel(1, flops=20_000), t.kernel(2, flops=400_000)
    probe = Probe({"blocks.0": 0.10, "blocks.1": 0.13})
    spec = t.spec(controller={"placement": "Probe", "probe_steps": 5}, judge={"mode": "Off"})
    host_step = 3.0 * 20_000 * 100
    view = t.view(
        20,
        400,
        slot_views=t.slots(["blocks.0", "blocks.1"]) | t.slots([f"blocks.{i}" for i in range(2, 8)], free=False),
        losses=[0.5 * (e + 1.0) ** -0.4 for e in range(20)],
        budget={"flops_used": 800 * host_step, "flops_limit": 4000 * host_step},
        probe=probe,
    )
    for first, second in ((dear, cheap), (cheap, dear)):
        offered = {"blocks.0": [first], "blocks.1": [second]}
        (order,) = TamiyoController(spec).decide(dataclasses.replace(view, kernels=offered))
        assert order.artifact_id == cheap.artifact_id
    assert len(probe.asked) == 2


def test_gradient_norm_is_used_when_asked_for(t: SimpleNamespace) -> None:
    probe = Probe({"blocks.0": 0.5}, {"blocks.0": 0.1, "blocks.1": 9.0, "blocks.2": 0.1})
    (order,) = grow(t, "GradientNorm", probe)
    assert order.slot == "blocks.1"
    assert "GradientNorm" in order.reason


def test_probe_falls_back_to_gradient_norm_then_to_the_depth_of_the_slot(t: SimpleNamespace) -> None:
    (order,) = grow(t, "Probe", Probe({}, {"blocks.0": 0.1, "blocks.1": 0.1, "blocks.2": 9.0}))
    assert order.slot == "blocks.2"
    (order,) = grow(t, "Probe", Probe({}))
    assert order.slot == "blocks.0"
    (order,) = grow(t, "Probe", None)
    assert order.slot == "blocks.0"
    assert "no probe" in order.reason


def test_a_probe_that_would_cost_too_much_is_not_run(t: SimpleNamespace) -> None:
    probe = Probe({"blocks.2": 1.0})
    controller = TamiyoController(t.spec(controller={"placement": "Probe", "probe_steps": 500}))
    (order,) = controller.decide(t.view(probe=probe))
    assert order.slot == "blocks.0"
    assert probe.asked == []


def test_a_probe_that_finds_nothing_stops_growth_for_a_while(t: SimpleNamespace) -> None:
    probe = Probe({"blocks.0": -0.1, "blocks.1": -0.2, "blocks.2": 0.0})
    controller = TamiyoController(t.spec(controller={"placement": "Probe", "probe_steps": 20}))
    for epoch in (20, 21, 22):
        assert controller.decide(t.view(epoch, 200, probe=probe)) == []
    assert len(probe.asked) == 1  # and the price of probing is not paid again
    assert controller.decide(t.view(23, 200, probe=probe)) == []
    assert len(probe.asked) == 2


def test_nothing_is_probed_when_growing_does_not_pay_anyway(t: SimpleNamespace) -> None:
    probe = Probe({"blocks.0": 1.0})
    host_step = 3.0 * 20_000 * 100
    short = {"flops_used": 800 * host_step, "flops_limit": 7000 * host_step}
    assert grow(t, "Probe", probe, kernels=[t.kernel(flops=4_000_000)], budget=short) == []
    assert probe.asked == []


def test_random_placement_repeats_with_the_seed_of_the_run(t: SimpleNamespace) -> None:
    def drawn(seed: int) -> list[str]:
        sim = t.Sim(t.spec(seed=seed, controller={"placement": "Random"}), names=[f"b.{i}" for i in range(30)])
        sim.run(TamiyoController(sim.spec))
        return [order.slot for _, order in sim.germinations()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_slot_where_nothing_flows_is_passed_over(t: SimpleNamespace) -> None:
    places = t.slots(["blocks.0"], statistics={"dead_fraction": 0.99}) | t.slots(["blocks.1"])
    places |= t.slots(["blocks.2"], free=False)
    (order,) = grow(t, "Earliest", slot_views=places, kernels=[t.kernel(flops=40_000)])
    assert order.slot == "blocks.1"
    (order,) = grow(t, "Earliest", slot_views=t.slots(["blocks.0"], statistics={"variance": 0.0}))
    assert order.slot == "blocks.0"  # rather than nowhere


def test_less_is_expected_of_later_slots(t: SimpleNamespace) -> None:
    """Where nothing is measured: a fifth in the last slot of what the first is worth."""

    def hoped(open_from: int) -> float:
        full = t.slots([f"blocks.{i}" for i in range(open_from)], free=False)
        rest = t.slots([f"blocks.{i}" for i in range(open_from, 3)])
        controller = TamiyoController(t.spec(controller={"placement": "Earliest"}))
        orders = controller.decide(t.view(20, 200, slot_views=full | rest))
        assert controller.log.last is not None
        return float((orders[0] if orders else controller.log.last).numbers["hope"])

    assert hoped(0) > hoped(1) > hoped(2)
    assert hoped(2) == pytest.approx(0.2 * hoped(0))


def test_the_earliest_slot_loses_where_it_makes_steps_too_dear(t: SimpleNamespace) -> None:
    """All slots are worth the same per FLOP; with few steps left a third of them in the middle is the better place."""
    probe = Probe({}, {"blocks.0": 1.0, "blocks.1": 1.0, "blocks.2": 0.1})
    host_step = 3.0 * 20_000 * 100
    controller = TamiyoController(t.spec(controller={"placement": "GradientNorm"}, judge={"mode": "Off"}))

    def chosen(worth: float) -> str:
        view = t.view(
            10, 4000, losses=t.falling(10), probe=probe,
            budget={"flops_used": 400 * host_step, "flops_limit": worth * 40 * host_step},
        )  # fmt: skip
        offered = {f"blocks.{i}": [t.kernel(i, flops=flops)] for i, flops in enumerate((90_000, 18_000, 4500))}
        (order,) = controller.decide(dataclasses.replace(view, kernels=offered))
        return str(order.slot)

    assert chosen(60) == "blocks.1"
    controller = TamiyoController(t.spec(controller={"placement": "GradientNorm"}, judge={"mode": "Off"}))
    assert chosen(1000) == "blocks.0"


def test_what_a_probe_found_is_kept_until_the_network_has_grown(t: SimpleNamespace) -> None:
    probe = Probe({}, {"blocks.0": 3.0, "blocks.1": 2.0, "blocks.2": 1.0})
    spec = t.spec(training={"epochs": 400}, controller={"placement": "GradientNorm", "embargo_epochs": 1})
    kernels = [t.kernel(i, f"b{i}", flops=40_000) for i in (1, 2, 3)]
    sim = t.Sim(spec, verdicts={"blocks.0/0": False}, kernels=kernels, losses=t.falling(400, 0.3))
    sim.run(TamiyoController(spec), probe=probe)
    kept = sum(seed.stage is Stage.FOSSILIZED for seed in sim.seeds.values())
    assert len(sim.germinations()) >= 2
    # the same kernel in the same slot is only measured again when one was kept
    twice = [(slot, kernel) for slot, kernel in probe.seen if probe.seen.count((slot, kernel)) > 1]
    assert probe.seen
    assert max((probe.seen.count(one) for one in twice), default=1) <= 1 + kept
    assert kept > 0 or not twice


@pytest.mark.parametrize("n", [1, 6, 7, 50, 1000])
def test_the_shortlist_keeps_the_earliest_and_reaches_the_last(n: int) -> None:
    slots = [f"s{i}" for i in range(n)]
    short = shortlist(slots, MAX_PROBED)
    assert len(short) == len(set(short)) == min(n, MAX_PROBED)
    assert short == sorted(short, key=slots.index)
    assert short[0] == slots[0]
    assert short[-1] == slots[-1]
