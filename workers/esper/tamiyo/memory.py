"""What the controller remembers of each seed, from the order to germinate to its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from esper.tamiyo.reports import FieldReport
from esper.tamiyo.views import IN_FLIGHT, OVER, Order, OrderKind, RunView, SeedView
from leyline.lifecycle import Stage

#: Stages in which a kernel has not yet shown that it can be loaded.
UNPROVEN = frozenset({Stage.GERMINATED, Stage.LOADING})


@dataclass(slots=True)
class Life:
    """One seed's story so far. Epochs count finished epochs; ``reserved_flops`` is what its trial was granted,
    ``weight`` the log loss that κ = 1 would bring in the end, ``longer`` the epochs added to its blending, ``fixed``
    that it has no parameters."""

    slot: str
    blueprint: str
    artifact_id: str
    stage: Stage = Stage.GERMINATED
    germinated: int = 0
    parameters: int = 0
    weight: float = 0.0
    longer: int = 0
    reserved_flops: float = 0.0
    fixed: bool = False
    pre_loss: float | None = None
    pre_metric: float | None = None
    intent: str = ""
    cancelled: bool = False
    judged: bool = False
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
        self._told: set[str] = set()

    def germinating(self, order: Order, life: Life) -> None:
        """Remember what was granted to a seed that has no name yet."""
        self._ordered[order.slot] = life

    @property
    def fixed(self) -> frozenset[str]:
        """Seeds whose kernel has no parameters; the view only shows that once the kernel is loaded."""
        return frozenset(seed for seed, life in self.lives.items() if life.fixed)

    @property
    def longer(self) -> dict[str, int]:
        """Seeds that are blended longer than the manifest says, and by how many epochs."""
        return {seed: life.longer for seed, life in self.lives.items() if life.longer > 0}

    def forget(self, slot: str) -> Life | None:
        """Drop an order to germinate that was not carried out."""
        return self._ordered.pop(slot, None)

    @property
    def open(self) -> list[Life]:
        """Seeds in flight and germinations that were ordered."""
        return [*self.lives.values(), *self._ordered.values()]

    def intend(self, order: Order) -> None:
        """Remember why a seed was told to end."""
        life = self.lives.get(order.seed or "")
        if life is not None and order.kind in (OrderKind.CANCEL, OrderKind.CULL):
            life.intent, life.cancelled = order.reason, order.kind is OrderKind.CANCEL
            life.evidence.update(order.numbers)

    def observe(self, view: RunView) -> tuple[list[Ended], list[Life]]:
        """Update all lives; the seeds that ended, and the germinations that were ordered but never came about."""
        ended: list[Ended] = []
        over: list[SeedView] = []
        for seed in view.seeds.values():
            if seed.stage in IN_FLIGHT:
                life = self.lives.get(seed.id)
                if life is None:
                    life = self.lives[seed.id] = self._born(seed, view)
                self._follow(life, seed)
            elif seed.stage in OVER:
                if seed.id not in self._told:
                    over.append(seed)
            elif seed.id in self.lives:
                ended.append(self._vanished(seed.id, seed.reason))
        for seed_id in [seed_id for seed_id in self.lives if seed_id not in view.seeds]:
            ended.append(self._vanished(seed_id, ""))
        # Only now: an order still without a seed may belong to one that began and ended since the last view.
        for seed in over:
            self._over(seed, view, ended)
        self._told = {told for told in self._told if told in view.seeds and view.seeds[told].stage in OVER}
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

    def _follow(self, life: Life, seed: SeedView) -> None:
        if life.stage is not seed.stage or not life.reached:
            life.stage = seed.stage
            life.reached[seed.stage.name.lower()] = seed.entered_epoch
        self._take_verdict(life, seed)

    def _over(self, seed: SeedView, view: RunView, ended: list[Ended]) -> None:
        life = self.lives.get(seed.id)
        if life is None:
            # A seed that is rolled back may be younger than the checkpoint that was restored.
            if seed.slot not in self._ordered and seed.stage is not Stage.ROLLED_BACK:
                return
            life = self.lives[seed.id] = self._born(seed, view)
        self._take_verdict(life, seed)
        self._told.add(seed.id)
        ended.append(self._end(seed.id, seed.stage, seed.reason))

    def _vanished(self, seed_id: str, reason: str) -> Ended:
        outcome = Stage.CANCELLED if self.lives[seed_id].cancelled else Stage.CULLED
        return self._end(seed_id, outcome, reason)

    def _end(self, seed_id: str, outcome: Stage, reason: str) -> Ended:
        life = self.lives.pop(seed_id)
        told = reason or life.intent
        if not told and life.stage in UNPROVEN:
            told = "the kernel could not be loaded"
        return Ended(seed_id, life, life.stage, outcome, told or f"ended in {life.stage.name}")

    def state_dict(self) -> dict[str, Any]:
        """All lives as JSON values."""
        return {
            "lives": {seed: {**asdict(life), "stage": life.stage.name} for seed, life in self.lives.items()},
            "told": sorted(self._told),
            "ordered": {slot: {**asdict(life), "stage": life.stage.name} for slot, life in self._ordered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.lives = {seed: Life(**{**life, "stage": Stage[life["stage"]]}) for seed, life in state["lives"].items()}
        self._told = set(state["told"])
        self._ordered = {
            slot: Life(**{**life, "stage": Stage[life["stage"]]}) for slot, life in state["ordered"].items()
        }
