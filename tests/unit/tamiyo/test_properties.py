"""What no run may see, searched for over random manifests, losses, verdicts and mishaps.

The simulated run checks each order against the lifecycle itself, so an illegal transition raises there.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.tamiyo import Candidate, OrderKind, ProbeResult, RunView, TamiyoController
from leyline.lifecycle import Stage

SLOTS = [f"blocks.{i}" for i in range(4)]
IDS = [f"{slot}/{n}" for slot in SLOTS for n in range(3)]
HOST_STEP = 6e6
#: Parameters, forward FLOPs per sample, risk.
KERNELS = st.tuples(st.integers(0, 900), st.integers(0, 30_000), st.floats(0.0, 1.0))
ENDED = (Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED)
TOUCHING = (Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING)
# Runs are slow to draw on a busy machine, and the fixture is only a bag of functions.
relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest's parts, and what fate holds for its seeds."""
    policy = draw(st.sampled_from(["Heuristic", "Always", "Random", "Fixed"]))
    controller: dict[str, Any] = {
        "policy": policy,
        "placement": draw(st.sampled_from(["Probe", "GradientNorm", "Earliest", "Random"])),
        "probe_steps": draw(st.integers(1, 20)),
        "warmup_epochs": draw(st.integers(0, 5)),
        "patience_epochs": draw(st.integers(1, 5)),
        "embargo_epochs": draw(st.integers(0, 12)),
        "max_germinations": draw(st.none() | st.integers(0, 5)),
        "minimum_remaining_fraction": draw(st.floats(0.0, 0.5)),
    }
    if policy == "Fixed":
        entry = st.fixed_dictionaries(
            {
                "epoch": st.integers(1, 40),
                "slot": st.sampled_from(SLOTS),
                "blueprint": st.sampled_from(["b1", "b2", "b3"]),
            }
        )
        controller["fixed"] = draw(st.lists(entry, min_size=1, max_size=6))
    active = draw(st.integers(1, 4))
    objective = draw(st.sampled_from(["None", "Reconstruction"]))
    return {
        "parts": {
            "seed": draw(st.integers(0, 3)),
            "training": {"epochs": 40},
            "controller": controller,
            "judge": {"mode": draw(st.sampled_from(["Once", "Twice", "Off"])), "cooldown_steps": 10},
            "seeds": {
                "max_active": active,
                "max_per_slot": draw(st.integers(1, 2)),
                "max_total": draw(st.none() | st.integers(active, 6)),
                "objective": objective,
                "isolation_epochs": draw(st.integers(1, 2)),
                "fine_tuning_epochs": draw(st.integers(1, 2)),
            },
            "budget": {
                "parameters": draw(st.none() | st.integers(600, 2500)),
                "training_flops": draw(st.none() | st.integers(int(5e9), int(2e10))),
            },
        },
        "kernels": draw(
            st.lists(
                st.tuples(st.integers(0, 900), st.integers(0, 30_000), st.floats(0.0, 1.0)), min_size=1, max_size=3
            )
        ),
        "slope": draw(st.floats(-0.1, 1.0)),
        "wobble": draw(st.lists(st.floats(0.8, 1.25), min_size=40, max_size=40)),
        "verdicts": draw(st.dictionaries(st.sampled_from(IDS), st.booleans())),
        "load_failures": draw(st.frozensets(st.sampled_from(IDS), max_size=3)),
        "crashes": draw(st.frozensets(st.sampled_from(IDS), max_size=3)),
        "spikes": draw(st.frozensets(st.integers(1, 40), max_size=2)),
    }


def build(t: SimpleNamespace, run: dict[str, Any]) -> Any:
    kernels = [
        t.kernel(number, f"b{number}", parameters=parameters, flops=flops, risk=risk)
        for number, (parameters, flops, risk) in enumerate(run["kernels"], 1)
    ]
    losses = [w * 2.0 * (epoch + 1.0) ** -run["slope"] for epoch, w in enumerate(run["wobble"])]
    fates = {name: run[name] for name in ("verdicts", "load_failures", "crashes", "spikes")}
    return t.Sim(t.spec(**run["parts"]), names=SLOTS, kernels=kernels, losses=losses, **fates)


def probe(candidates: list[Candidate]) -> dict[Candidate, ProbeResult]:
    """Some slots gain, some lose, some can't be measured; the same every time."""
    signals = {"blocks.0": 0.1, "blocks.1": -0.1, "blocks.2": 0.3, "blocks.3": float("nan")}
    return {c: ProbeResult(signals[c.slot], abs(signals[c.slot]), 4000.0) for c in candidates}


@relaxed
@given(run=runs())
def test_orders_are_legal_and_limits_hold(t: SimpleNamespace, run: dict[str, Any]) -> None:
    sim = build(t, run)
    spec, controller = sim.spec, TamiyoController(sim.spec)

    def check(view: RunView, orders: list[Any]) -> None:
        flying = [
            seed for seed in sim.seeds.values() if seed.stage not in (Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED)
        ]
        new = [order for order in orders if order.kind is OrderKind.GERMINATE]
        assert len(flying) + len(new) <= max(spec.seeds.max_active, len(flying))
        if new and spec.seeds.max_total is not None:
            kept = sum(seed.stage is Stage.FOSSILIZED for seed in sim.seeds.values())
            assert kept + len(flying) + len(new) <= spec.seeds.max_total
        if spec.judge.mode != "Off":
            held = TOUCHING if spec.judge.mode == "Once" else (*TOUCHING, Stage.FINE_TUNING)
            assert sum(seed.stage in held for seed in sim.seeds.values()) <= 1
        for order in new:
            assert sim.record(order.artifact_id).risk <= spec.controller.max_risk
            assert all(seed.slot != order.slot for seed in flying)
            assert order.reason

    sim.run(controller, check=check, probe=probe)
    most = spec.controller.max_germinations
    assert most is None or len(sim.germinations()) <= most
    assert all(json.dumps(decision.to_dict(), allow_nan=False) for decision in controller.log)


@relaxed
@given(run=runs())
def test_the_budget_is_never_exceeded(t: SimpleNamespace, run: dict[str, Any]) -> None:
    sim = build(t, run)
    spec = sim.spec
    seeds, judge = spec.seeds, spec.judge

    def trial(order: Any) -> float:
        """What a seed needs until it is fossilized, reckoned apart from the controller's own cost model."""
        kernel = 3.0 * sim.record(order.artifact_id).flops * 100
        isolation = 0 if seeds.objective == "None" else seeds.isolation_epochs
        blending = seeds.grafting_epochs + seeds.stabilization_epochs
        epochs = 1 + isolation + blending + seeds.fine_tuning_epochs
        looks = {"Off": 0, "Once": 1, "Twice": 2}[judge.mode]
        twin = 0 if looks == 0 else blending + (seeds.fine_tuning_epochs if looks == 2 else 0)
        once = twin * 40 * HOST_STEP + isolation * 40 * kernel + looks * 10 * (2 * HOST_STEP + kernel)
        return once + epochs * 40 * HOST_STEP + (epochs - 1 - isolation) * 40 * kernel

    def check(view: RunView, orders: list[Any]) -> None:
        limit = spec.budget.parameters
        assert limit is None or sim.parameters <= limit
        new = [order for order in orders if order.kind is OrderKind.GERMINATE]
        if new and spec.budget.training_flops is not None:
            assert max(trial(order) for order in new) <= (spec.budget.training_flops - sim.flops) * (1 + 1e-9)
        if new and limit is not None:
            waiting = [
                seed.artifact_id for seed in sim.seeds.values() if seed.stage in (Stage.GERMINATED, Stage.LOADING)
            ]
            promised = sum(sim.record(a).parameters for a in [*waiting, *(order.artifact_id for order in new)])
            assert sim.parameters + promised <= limit

    sim.run(TamiyoController(spec), check=check, probe=probe)


@relaxed
@given(run=runs())
def test_slots_and_kernels_under_embargo_are_not_touched(t: SimpleNamespace, run: dict[str, Any]) -> None:
    sim = build(t, run)
    rest = sim.spec.controller.embargo_epochs

    def check(view: RunView, orders: list[Any]) -> None:
        resting = [(slot, kernel) for epoch, slot, kernel in sim.fell if sim.epoch < epoch + rest]
        for order in orders:
            if order.kind is OrderKind.GERMINATE:
                assert order.slot not in [slot for slot, _ in resting]
                assert order.artifact_id not in [kernel for _, kernel in resting]
                assert order.artifact_id not in sim.evicted
                assert sim.spike is None or sim.epoch >= sim.spike + max(1, rest)

    sim.run(TamiyoController(sim.spec), check=check, probe=probe)


@relaxed
@given(run=runs(), restarts=st.frozensets(st.integers(1, 40), max_size=4))
def test_the_same_orders_after_a_restart_at_any_epoch(
    t: SimpleNamespace, run: dict[str, Any], restarts: frozenset[int]
) -> None:
    whole, broken = build(t, run), build(t, run)
    whole.run(TamiyoController(whole.spec), probe=probe)
    controller = TamiyoController(broken.spec)
    for epoch in range(1, 41):
        broken.run(controller, 1, probe=probe)
        if epoch in restarts:
            before = json.dumps(controller.state_dict(), sort_keys=True)
            controller = t.through_json(controller, TamiyoController(broken.spec))
            assert json.dumps(controller.state_dict(), sort_keys=True) == before
    assert broken.history == whole.history
