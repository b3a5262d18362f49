"""Builders of manifests, kernels and views, and a run in plain numbers that carries out what the controller orders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo import BudgetView, Order, OrderKind, RunView, SeedView, SlotView, TamiyoController, Verdict
from esper.tamiyo.cost import CostModel
from esper.urza.library import KernelRecord, State
from leyline.interface import Interface, Layout
from leyline.lifecycle import Actor, Stage, check
from leyline.resources import TrainingRunSpec

INTERFACE = Interface(Layout.IMAGE1D, 8, (20,))
STEPS = 40


def spec(**parts: Any) -> TrainingRunSpec:
    """A manifest with quick seeds; keyword arguments replace or extend its parts."""
    base: dict[str, Any] = {
        "task": {"ref": "tasks:small"},
        "slots": [{"path": "blocks.*"}],
        "training": {"epochs": 60},
        "seeds": {"grafting_epochs": 2, "stabilization_epochs": 1, "fine_tuning_epochs": 1},
        "judge": {"cooldown_steps": 20},
        "controller": {"placement": "Earliest"},
    }
    for name, value in parts.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, Mapping) else value
    return TrainingRunSpec(**base)


def artifact(index: int) -> str:
    return f"{index:016x}-x86_64-avx512-fast-00000000"


def kernel(
    index: int = 1,
    blueprint: str = "conv",
    *,
    parameters: int = 400,
    flops: int = 20_000,
    risk: float = 0.1,
    latency_ms: float | None = 1.0,
    memory_mb: float | None = 1.0,
    ratio: float | None = 1.0,
    tags: Iterable[str] = (),
    approved: bool = False,
) -> KernelRecord:
    return KernelRecord(
        artifact(index), blueprint, "fast", State.VALIDATED, ratio, latency_ms, memory_mb, tuple(tags), risk, flops,
        parameters, approved=approved,
    )  # fmt: skip


def slots(names: Iterable[str] = ("blocks.0", "blocks.1", "blocks.2"), **fields: Any) -> dict[str, SlotView]:
    return {name: SlotView(name, INTERFACE, **fields) for name in names}


def falling(epochs: int, exponent: float = 0.5) -> list[float]:
    """Losses of a host that still learns: a power of time."""
    return [2.0 * (epoch + 1.0) ** -exponent for epoch in range(epochs)]


def flat(epochs: int, level: float = 0.5) -> list[float]:
    """Losses of a host that learned what it could, within a little noise."""
    return [level * (1.0 + 0.003 * ((7 * epoch) % 5 - 2)) for epoch in range(epochs)]


def view(
    epoch: int = 20,
    epochs: int = 60,
    *,
    losses: Sequence[float] | None = None,
    seeds: Iterable[SeedView] = (),
    kernels: Sequence[KernelRecord] | None = None,
    slot_views: Mapping[str, SlotView] | None = None,
    budget: Mapping[str, Any] | None = None,
    **fields: Any,
) -> RunView:
    """A run after ``epoch`` epochs; by default flat, unlimited, without seeds, one kernel for each of three slots."""
    places = slots() if slot_views is None else slot_views
    offered = [kernel()] if kernels is None else kernels
    standing = {
        "parameters_used": 600,
        "flops_used": 1e9,
        "step_flops": 3.0 * 20_000 * 100,
        "remaining_fraction": 1.0 - epoch / epochs,
        "steps_per_epoch": STEPS,
        "samples_per_step": 100,
    }
    return RunView(
        epoch=epoch,
        epochs=epochs,
        step=epoch * STEPS,
        budget=BudgetView(**{**standing, **(budget or {})}),
        controller_losses=flat(epoch) if losses is None else losses,
        slots=places,
        seeds={seed.id: seed for seed in seeds},
        kernels=dict.fromkeys(places, offered),
        **fields,
    )


@dataclass
class Sim:
    """A run that obeys: seeds move as ordered and no other way, what is spent is booked, losses are given.

    ``verdicts`` gives each judged seed's fate by seed id (promoted unless named); ``load_failures`` and ``crashes``
    name seeds that fail to load, or raise in GRAFTING.
    """

    spec: TrainingRunSpec
    names: Sequence[str] = ("blocks.0", "blocks.1", "blocks.2")
    kernels: Sequence[KernelRecord] = field(default_factory=lambda: [kernel()])
    losses: Sequence[float] = ()
    verdicts: Mapping[str, bool] = field(default_factory=dict)
    load_failures: frozenset[str] = frozenset()
    crashes: frozenset[str] = frozenset()
    spikes: frozenset[int] = frozenset()
    host_parameters: int = 600
    step_flops: float = 6e6
    epoch: int = 0
    flops: float = 0.0
    spike: int | None = None
    seeds: dict[str, SeedView] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    evicted: set[str] = field(default_factory=set)
    fell: list[tuple[int, str, str]] = field(default_factory=list)
    history: list[tuple[int, Order]] = field(default_factory=list)

    def record(self, artifact_id: str) -> KernelRecord:
        return next(one for one in self.kernels if one.artifact_id == artifact_id)

    @property
    def parameters(self) -> int:
        loaded = (Stage.TRAINING, Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING)
        return self.host_parameters + sum(
            self.record(seed.artifact_id).parameters
            for seed in self.seeds.values()
            if seed.stage in (*loaded, Stage.FOSSILIZED)
        )

    def view(self, **fields: Any) -> RunView:
        limit = self.spec.budget.training_flops
        epochs = self.spec.training.epochs
        share = self.epoch / epochs if limit is None else max(self.epoch / epochs, self.flops / limit)
        losses = list(self.losses) or flat(epochs)
        return view(
            self.epoch,
            epochs,
            losses=losses[: self.epoch],
            seeds=self.seeds.values(),
            kernels=self.kernels,
            slot_views=slots(self.names),
            budget={
                "parameters_used": self.parameters,
                "parameters_limit": self.spec.budget.parameters,
                "flops_used": self.flops,
                "flops_limit": limit,
                "step_flops": self.step_flops,
                "remaining_fraction": 1.0 - min(1.0, share),
            },
            loss_spike_epoch=self.spike,
            evicted=frozenset(self.evicted),
            **fields,
        )

    def advance(self) -> None:
        """Train one epoch and pass its boundary."""
        self.epoch += 1
        self.flops += STEPS * self.step_flops
        if self.epoch in self.spikes:
            self.spike = self.epoch
        for seed_id in list(self.seeds):
            self.ages[seed_id] = self.ages.get(seed_id, 0) + 1
            self._pass(self.seeds[seed_id])

    def _pass(self, seed: SeedView) -> None:
        trainable = self.record(seed.artifact_id).parameters > 0
        if seed.stage is Stage.CULLED or seed.stage is Stage.CANCELLED:
            del self.seeds[seed.id]
        elif seed.stage is Stage.ERROR_RECOVERY:
            self._fall(seed, Stage.CULLED)
        elif seed.stage is Stage.LOADING:
            if seed.id in self.load_failures:
                self._fall(seed, Stage.CULLED)
            else:
                loaded = dataclasses.replace(seed, trainable=trainable)
                self._move(loaded, Stage.TRAINING if trainable else Stage.GRAFTING, Actor.KASMINA)
        elif seed.stage is Stage.GRAFTING and seed.id in self.crashes:
            self.evicted.add(seed.artifact_id)
            self._move(seed, Stage.ERROR_RECOVERY, Actor.KASMINA)
        self._ready()

    def _ready(self) -> None:
        seeds = self.spec.seeds
        isolated = 0 if seeds.objective == "None" else seeds.isolation_epochs
        lasts = {
            Stage.TRAINING: isolated,
            Stage.GRAFTING: seeds.grafting_epochs,
            Stage.STABILIZATION: seeds.stabilization_epochs,
            Stage.EVALUATING: 0,
            Stage.FINE_TUNING: seeds.fine_tuning_epochs,
        }
        for seed in list(self.seeds.values()):
            if seed.stage in lasts and self.ages[seed.id] >= lasts[seed.stage]:
                self.seeds[seed.id] = dataclasses.replace(seed, ready=True, verdict=self._verdict(seed))

    def _verdict(self, seed: SeedView) -> Verdict | None:
        asked = self.spec.judge.mode != "Off" and seed.stage is Stage.EVALUATING
        if not asked and not (self.spec.judge.mode == "Twice" and seed.stage is Stage.FINE_TUNING):
            return seed.verdict
        promoted = self.verdicts.get(seed.id, True)
        numbers = {"effect": 0.05 if promoted else -0.01, "twin_loss": 0.5, "p_value": 0.001 if promoted else 0.6}
        return Verdict(promoted, "better" if promoted else "no better", numbers, seed.stage)

    def _move(self, seed: SeedView, target: Stage, actor: Actor) -> None:
        check(seed.stage, target, actor, trainable=seed.trainable)
        self.seeds[seed.id] = dataclasses.replace(seed, stage=target, ready=False, entered_epoch=self.epoch)
        self.ages[seed.id] = 0

    def _fall(self, seed: SeedView, target: Stage, actor: Actor = Actor.KASMINA) -> None:
        self._move(seed, target, actor)
        if target is Stage.CULLED:
            self.fell.append((self.epoch, seed.slot, seed.artifact_id))

    def carry_out(self, orders: Iterable[Order]) -> None:
        """Do what is ordered; LifecycleError for what the lifecycle forbids."""
        for order in orders:
            self.history.append((self.epoch, order))
            if order.kind is OrderKind.GERMINATE:
                check(Stage.DORMANT, Stage.GERMINATED, Actor.TAMIYO)
                number = sum(1 for _, other in self.history if other.slot == order.slot and other.seed is None) - 1
                seed = SeedView(
                    f"{order.slot}/{number}", order.slot, Stage.GERMINATED, False, self.epoch, order.blueprint,
                    order.artifact_id,
                )  # fmt: skip
                self.seeds[seed.id], self.ages[seed.id] = seed, 0
                continue
            assert order.seed is not None
            seed = self.seeds[order.seed]
            assert order.kind is not OrderKind.ADVANCE or seed.ready
            self._fall(seed, order.target, Actor.TAMIYO)
        self._ready()

    def run(
        self,
        controller: TamiyoController,
        epochs: int | None = None,
        check: Callable[[RunView, list[Order]], None] = lambda view, orders: None,
        **fields: Any,
    ) -> list[tuple[int, Order]]:
        """Train to the end, asking after every epoch until nothing is ordered; all orders with their epochs.

        ``check`` sees each round's view and orders before they are carried out; ``fields`` go into each view.
        """
        for _ in range(self.spec.training.epochs - self.epoch if epochs is None else epochs):
            self.advance()
            for _ in range(8):
                view = self.view(**fields)
                orders = controller.decide(view)
                check(view, orders)
                self.carry_out(orders)
                if not orders:
                    break
            for seed in list(self.seeds.values()):
                if seed.stage is Stage.GERMINATED:
                    self._move(seed, Stage.LOADING, Actor.KASMINA)
        return self.history

    def germinations(self) -> list[tuple[int, Order]]:
        return [(epoch, order) for epoch, order in self.history if order.kind is OrderKind.GERMINATE]


def through_json(controller: TamiyoController, target: TamiyoController) -> TamiyoController:
    """Move a controller's state into another one by way of its JSON text."""
    target.load_state_dict(json.loads(json.dumps(controller.state_dict(), allow_nan=False)))
    return target


@pytest.fixture(scope="session")
def t() -> SimpleNamespace:
    """Everything above by name."""
    return SimpleNamespace(
        INTERFACE=INTERFACE, STEPS=STEPS, Sim=Sim, CostModel=CostModel, artifact=artifact, falling=falling, flat=flat,
        kernel=kernel, slots=slots, spec=spec, through_json=through_json, view=view,
    )  # fmt: skip
