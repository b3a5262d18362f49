"""The policies that are controls: Never, Always, Random, Fixed."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from esper.errors import CheckpointMismatch
from esper.tamiyo import TamiyoController
from esper.tamiyo.policy import Draws
from leyline.lifecycle import Stage


def run(t: SimpleNamespace, sim_fields: dict[str, Any] | None = None, **parts: Any) -> Any:
    sim = t.Sim(t.spec(**parts), **(sim_fields or {}))
    sim.run(TamiyoController(sim.spec))
    return sim


def test_never_grows_never(t: SimpleNamespace) -> None:
    sim = run(t, controller={"policy": "Never"})
    assert sim.history == []


def test_always_grows_as_soon_as_there_is_room(t: SimpleNamespace) -> None:
    sim = run(t, {"losses": t.falling(60, 1.0)}, controller={"policy": "Always", "minimum_remaining_fraction": 0.9})
    assert [(epoch, order.slot) for epoch, order in sim.germinations()] == [
        (1, "blocks.0"),
        (6, "blocks.1"),
        (11, "blocks.2"),
    ]


def test_always_fills_all_the_room(t: SimpleNamespace) -> None:
    sim = run(t, controller={"policy": "Always"}, seeds={"max_active": 2})
    assert [epoch for epoch, _ in sim.germinations()][:2] == [1, 1]


def test_random_grows_no_more_often_than_the_heuristic_could(t: SimpleNamespace) -> None:
    names = [f"blocks.{i}" for i in range(12)]
    controller = {"warmup_epochs": 5, "patience_epochs": 7, "minimum_remaining_fraction": 0.5}
    sim = run(t, {"names": names}, controller={"policy": "Random", **controller})
    epochs = [epoch for epoch, _ in sim.germinations()]
    assert min(epochs) >= 5
    assert max(epochs) <= 30
    assert all(b - a >= 7 for a, b in pairwise(epochs))


def test_random_draws_slots_and_kernels_from_the_seed_of_the_run(t: SimpleNamespace) -> None:
    names = [f"blocks.{i}" for i in range(20)]
    kernels = [t.kernel(i, f"k{i}") for i in range(1, 9)]

    def drawn(seed: int) -> list[tuple[str, str]]:
        sim = run(t, {"names": names, "kernels": kernels}, seed=seed, controller={"policy": "Random"})
        return [(order.slot, order.blueprint) for _, order in sim.germinations()]

    runs = [drawn(seed) for seed in range(6)]
    assert drawn(0) == runs[0]
    assert len({slot for one in runs for slot, _ in one}) > 5
    assert len({blueprint for one in runs for _, blueprint in one}) > 3


def test_random_goes_on_where_it_was(t: SimpleNamespace) -> None:
    spec = t.spec(controller={"policy": "Random", "warmup_epochs": 0, "patience_epochs": 1}, judge={"mode": "Off"})
    names = [f"blocks.{i}" for i in range(20)]
    whole, broken = t.Sim(spec, names=names), t.Sim(spec, names=names)
    whole.run(TamiyoController(spec))
    first = TamiyoController(spec)
    broken.run(first, 20)
    broken.run(t.through_json(first, TamiyoController(spec)))
    assert broken.history == whole.history
    assert len(whole.germinations()) > 3


def test_draws_are_uniform_enough_and_depend_on_seed_and_count_only() -> None:
    draws = Draws(7)
    counts = [0] * 10
    for _ in range(5000):
        counts[draws.below(10)] += 1
    assert min(counts) > 400
    again = Draws(7)
    again.count = draws.count
    assert [again.below(1000) for _ in range(5)] == [draws.below(1000) for _ in range(5)]


def test_fixed_follows_its_schedule(t: SimpleNamespace) -> None:
    plan = [
        {"epoch": 12, "slot": "blocks.2", "blueprint": "gate"},
        {"epoch": 3, "slot": "blocks.1", "blueprint": "conv"},
    ]
    kernels = [t.kernel(1, "conv"), t.kernel(2, "gate")]
    sim = run(t, {"kernels": kernels}, controller={"policy": "Fixed", "fixed": plan})
    assert [(epoch, order.slot, order.blueprint) for epoch, order in sim.germinations()] == [
        (3, "blocks.1", "conv"),
        (12, "blocks.2", "gate"),
    ]


def test_a_fixed_entry_stays_due_until_it_can_be_ordered(t: SimpleNamespace) -> None:
    plan = [
        {"epoch": 3, "slot": "blocks.0", "blueprint": "conv"},
        {"epoch": 4, "slot": "blocks.1", "blueprint": "conv"},
    ]
    sim = run(t, controller={"policy": "Fixed", "fixed": plan})
    assert [(epoch, order.slot) for epoch, order in sim.germinations()] == [(3, "blocks.0"), (8, "blocks.1")]


def test_a_fixed_entry_that_can_not_be_is_named_and_blocks_no_other(t: SimpleNamespace) -> None:
    plan = [
        {"epoch": 3, "slot": "nowhere", "blueprint": "conv"},
        {"epoch": 3, "slot": "blocks.0", "blueprint": "unknown"},
        {"epoch": 5, "slot": "blocks.1", "blueprint": "conv"},
    ]
    sim = t.Sim(t.spec(controller={"policy": "Fixed", "fixed": plan}))
    controller = TamiyoController(sim.spec)
    sim.run(controller, 4)
    assert "conv in nowhere" in controller.idle_reason
    assert "unknown in blocks.0" in controller.idle_reason
    sim.run(controller)
    assert [(epoch, order.slot) for epoch, order in sim.germinations()] == [(5, "blocks.1")]


def test_fixed_remembers_what_is_done(t: SimpleNamespace) -> None:
    plan = [{"epoch": 3, "slot": "blocks.0", "blueprint": "conv"}]
    sim = t.Sim(t.spec(controller={"policy": "Fixed", "fixed": plan}, seeds={"max_per_slot": 3}))
    first = TamiyoController(sim.spec)
    sim.run(first, 20)
    sim.run(t.through_json(first, TamiyoController(sim.spec)))
    assert len(sim.germinations()) == 1


def test_the_state_of_another_policy_is_refused(t: SimpleNamespace) -> None:
    state = TamiyoController(t.spec(controller={"policy": "Always"})).state_dict()
    with pytest.raises(CheckpointMismatch, match="Always"):
        TamiyoController(t.spec()).load_state_dict(state)
    with pytest.raises(CheckpointMismatch, match="schema 99"):
        TamiyoController(t.spec()).load_state_dict({**state, "schema": 99})


def test_every_kept_seed_of_a_control_went_through_its_stages(t: SimpleNamespace) -> None:
    sim = run(t, controller={"policy": "Always"})
    assert {seed.stage for seed in sim.seeds.values()} == {Stage.FOSSILIZED}
    assert len(sim.seeds) == 3
