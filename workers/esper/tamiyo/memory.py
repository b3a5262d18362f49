"""What the controller remembers of each seed, from the order to germinate to its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from leyline.lifecycle import Stage

from esper.tamiyo.reports import FieldReport
from esper.tamiyo.views import IN_FLIGHT, OVER, Order, OrderKind, RunView, SeedView

#: Stages in which a kernel has not yet shown that it can be loaded.
UNPROVEN = frozenset({Stage.GERMINATED, Stage.LOADING})


@dataclass(slots=True)
class Life:
    """One seed's story so far. Epochs count finished epochs; ``reserved_flops`` is what its trial was granted,
    ``fixed`` that its kernel has no parameters."""

    slot: str
    blueprint: str
    artifact_id: str
    stage: Stage = Stage.GERMINATED
    germinated: int = 0
    parameters: int = 0
    host_parameters: int = 0
    reserved_flops: float = 0.0
    fixed: bool = False
    pre_loss: float | None = None
    pre_metric: float | None = None
    intent: str = ""
    cancelled: bool = False
    judged: bool = False
    over: bool = False
    reached: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """A seed whose story ended since the last view; ``last`` is the stage it was last seen in."""

    seed: str
    life: Life
    last: Stage
    outcome: Stage
    reason: str


def latest(values: Sequence[float]) -> float | None:
    """The last value if it is finite."""
    return float(values[-1]) if values and math.isfinite(values[-1]) else None


class Memory:
    """Follows seeds from view to view and tells which have ended. One pass over the view's seeds."""

    def __init__(self) -> None:
        self.lives: dict[str, Life] = {}
        self._ordered: dict[str, Life] = {}

    def germinating(self, order: Order, life: Life) -> None:
        """Remember what was granted to a seed that has no name yet."""
        self._ordered[order.slot] = life

    @property
    def fixed(self) -> frozenset[str]:
        """Seeds whose kernel has no parameters; the view only shows that once the kernel is loaded."""
        return frozenset(seed for seed, life in self.lives.items() if life.fixed and not life.over)

    def forget(self, slot: str) -> Life | None:
        """Drop an order to germinate that was not carried out."""
        return self._ordered.pop(slot, None)

    @property
    def open(self) -> list[Life]:
        """Seeds in flight and germinations that were ordered."""
        return [*(life for life in self.lives.values() if not life.over), *self._ordered.values()]

    def intend(self, order: Order) -> None:
        """Remember why a seed was told to end."""
        life = self.lives.get(order.seed or "")
        if life is not None and order.kind in (OrderKind.CANCEL, OrderKind.CULL):
            life.intent, life.cancelled = order.reason, order.kind is OrderKind.CANCEL
            life.evidence.update(order.numbers)

    def observe(self, view: RunView) -> tuple[list[Ended], list[Life]]:
        """Update all lives; the seeds that ended, and the germinations that were ordered but never came about."""
        ended: list[Ended] = []
        for seed in view.seeds.values():
            life = self.lives.get(seed.id)
            if seed.stage in IN_FLIGHT:
                if life is None or life.over:
                    life = self.lives[seed.id] = self._born(seed, view)
                self._follow(life, seed, view)
            elif seed.stage in OVER:
                if life is None and seed.slot in self._ordered:
                    life = self.lives[seed.id] = self._born(seed, view)
                if life is None and seed.stage is Stage.ROLLED_BACK:
                    life = self.lives[seed.id] = self._born(seed, view)  # the checkpoint was older than the seed
                if life is None:
                    self.lives[seed.id] = Life(seed.slot, seed.blueprint, seed.artifact_id, seed.stage, over=True)
                elif not life.over:
                    self._take_verdict(life, seed)
                    ended.append(self._end(seed.id, life, seed.stage, seed.reason))
            elif life is not None:
                self._vanish(seed.id, life, seed.reason, ended)
        for seed_id in [seed_id for seed_id in self.lives if seed_id not in view.seeds]:
            self._vanish(seed_id, self.lives[seed_id], "", ended)
        lost = list(self._ordered.values())
        self._ordered.clear()
        return ended, lost

    def report(self, end: Ended, view: RunView) -> FieldReport:
        """The field report of a seed that ended."""
        life = end.life
        return FieldReport(
            run=view.run,
            seed=end.seed,
            slot=life.slot,
            blueprint=life.blueprint,
            artifact_id=life.artifact_id,
            outcome=end.outcome.name,
            reason=end.reason,
            germinated_epoch=life.germinated,
            finished_epoch=view.epoch,
            pre_loss=life.pre_loss,
            post_loss=latest(view.controller_losses),
            pre_metric=life.pre_metric,
            post_metric=latest(view.controller_metrics),
            measurements={**{f"epoch_{stage}": float(at) for stage, at in life.reached.items()}, **life.evidence},
        )

    def _born(self, seed: SeedView, view: RunView) -> Life:
        ordered = self._ordered.get(seed.slot)
        if ordered is not None and ordered.artifact_id == seed.artifact_id:
            return self._ordered.pop(seed.slot)
        return Life(
            seed.slot,
            seed.blueprint,
            seed.artifact_id,
            germinated=seed.entered_epoch,
            fixed=not seed.trainable,
            pre_loss=latest(view.controller_losses),
            pre_metric=latest(view.controller_metrics),
        )

    @staticmethod
    def _take_verdict(life: Life, seed: SeedView) -> None:
        if seed.verdict is not None:
            life.judged = True
            life.evidence.update({key: value for key, value in seed.verdict.numbers.items() if math.isfinite(value)})

    def _follow(self, life: Life, seed: SeedView, view: RunView) -> None:
        if life.stage is not seed.stage or not life.reached:
            life.stage = seed.stage
            life.reached[seed.stage.name.lower()] = seed.entered_epoch
        self._take_verdict(life, seed)

    def _vanish(self, seed_id: str, life: Life, reason: str, ended: list[Ended]) -> None:
        if not life.over:
            outcome = Stage.CANCELLED if life.cancelled else Stage.CULLED
            ended.append(self._end(seed_id, life, outcome, reason))
        del self.lives[seed_id]

    @staticmethod
    def _end(seed_id: str, life: Life, outcome: Stage, reason: str) -> Ended:
        last, life.over = life.stage, True
        told = reason or life.intent
        if not told and last in UNPROVEN:
            told = "the kernel could not be loaded"
        return Ended(seed_id, life, last, outcome, told or f"ended in {last.name}")

    def state_dict(self) -> dict[str, Any]:
        """All lives as JSON values."""
        return {
            "lives": {seed: {**asdict(life), "stage": life.stage.name} for seed, life in self.lives.items()},
            "ordered": {slot: {**asdict(life), "stage": life.stage.name} for slot, life in self._ordered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.lives = {seed: Life(**{**life, "stage": Stage[life["stage"]]}) for seed, life in state["lives"].items()}
        self._ordered = {
            slot: Life(**{**life, "stage": Stage[life["stage"]]}) for slot, life in state["ordered"].items()
        }
