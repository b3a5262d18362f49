"""What happens between two epochs: orders are asked for, executed, and their consequences drawn.

Consequences are the trainer's: a seed that begins to touch the host gets a twin; one that reaches EVALUATING gets
its verdict; one that is dropped after it touched the host leaves the twin as the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esper.kasmina import Command
from esper.kasmina.boundary import promote
from esper.kasmina.ending import conclude
from esper.tolaria.costs import Costs, cooldown_flops
from esper.tolaria.recorder import verdict_in_words
from leyline.lifecycle import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from esper.kasmina import Applied, SeedEvent
    from esper.tamiyo import Order
    from esper.tolaria.trainer import Trainer

ROUNDS = 8
"""How often orders are asked for at one epoch's end: one order's consequence (a verdict) may call for the next."""

_TOUCHED = frozenset({Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.ERROR_RECOVERY})
_DROPPED = frozenset({Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})


class Settler:
    """Carries a trainer's run over an epoch boundary."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.culled: set[str] = set()
        self.idle_reason = ""

    # -- the boundary ------------------------------------------------------------------------------------------------

    def settle(self) -> list[dict[str, Any]]:
        """Ask, execute, follow up, until there is nothing left to order; returns what was ordered and applied."""
        trainer = self.trainer
        self.follow_up()
        done: list[dict[str, Any]] = []
        for _ in range(ROUNDS):
            self._second_looks()
            orders = trainer.orders()
            if not orders:
                break
            trainer.recorder.decisions(orders)
            for order in orders:
                applied = trainer.bank.execute(trainer.sealer.seal(order, trainer.epoch))
                done.append({**order.to_dict(), "accepted": applied.accepted, "answer": applied.reason})
                if not applied.accepted:
                    self._refused(order, applied)
                self.follow_up()
        promote(trainer.bank)  # what was ordered now is loaded while the next epoch trains
        self.follow_up()
        reason = trainer.controller.idle_reason
        if reason and reason != self.idle_reason:
            trainer.recorder.idle(reason)
        self.idle_reason = reason
        return done

    def finish(self) -> None:
        """End the run's open seeds: keep what was proven or can't be judged any more, drop the rest."""
        trainer = self.trainer
        for seed in list(trainer.bank.seeds.values()):
            if seed.stage in (Stage.GERMINATED, Stage.LOADING, Stage.TRAINING):
                self._cull(seed.id, "the run ended before the seed could be grafted")
            elif seed.stage is Stage.FINE_TUNING:
                conclude(trainer.bank, seed, "the run ended after a positive verdict")
            elif seed.stage in _TOUCHED and self._on_trial(seed.id):
                self._cull(seed.id, "the run ended before the verdict")
            elif seed.stage in _TOUCHED:
                conclude(trainer.bank, seed, "the run ended; its manifest asks for no judgement")
        self.follow_up()

    def follow_up(self) -> None:
        """Draw the consequences of the transitions since the last call."""
        while events := self.trainer.bank.drain_events():
            for event in events:
                self._consequence(event)

    def _consequence(self, event: SeedEvent) -> None:
        trainer, trials = self.trainer, self.trainer.trials
        trainer.recorder.seed(event, trainer.strategy_of(event.artifact_id))
        mine = self._on_trial(event.seed)
        match event.target:
            case Stage.GRAFTING if trainer.spec.judge.mode != "Off":
                trials.begin(event.seed)
            case Stage.EVALUATING if mine:
                self.judge(event.seed, Stage.EVALUATING)
            case Stage.FINE_TUNING if mine and trainer.spec.judge.mode != "Twice":
                trials.end()
            case Stage.FOSSILIZED if mine:
                trials.end()
            case Stage.ERROR_RECOVERY:
                trainer.history.evicted.append(event.artifact_id)
            case Stage.CULLED | Stage.CANCELLED | Stage.ROLLED_BACK:
                self.culled.add(event.seed)
                reference = self._adopt_twin() if mine else None
                if event.target is not Stage.ROLLED_BACK:
                    optimizer = trainer.line.optimizer
                    trainer.line.sync_optimizer()
                    gate = trainer.bank.cull_into_dormant(event.seed, reference, optimizer.inner)
                    trainer.recorder.gate(event.seed, gate)
            case _:
                return

    def _on_trial(self, seed: str) -> bool:
        trial = self.trainer.trials.current
        return trial is not None and trial.seed == seed

    def judge(self, seed: str, stage: Stage) -> None:
        """Ask the judge, book the price, and hand the verdict to the gates and the controller."""
        trainer = self.trainer
        trainer.ledger.charge("cooldown", trainer.cool_down_cost(), seed)
        verdict = trainer.trials.judge(trainer.epoch, trainer.costs().cooldown_steps)
        trainer.bank.set_verdict(seed, verdict)
        entry = {**verdict.to_dict(), "stage": stage.name, "epoch": trainer.epoch, "reason": verdict_in_words(verdict)}
        trainer.history.verdicts.setdefault(seed, []).append(entry)
        trainer.recorder.verdict(seed, verdict)

    def _second_looks(self) -> None:
        trial = self.trainer.trials.current
        if trial is None or self.trainer.spec.judge.mode != "Twice" or trial.looks != 1:
            return
        seed = self.trainer.bank.seeds[trial.seed]
        if seed.stage is Stage.FINE_TUNING and seed.ready:
            self.judge(seed.id, Stage.FINE_TUNING)

    def _adopt_twin(self) -> dict[str, Tensor]:
        """The twin's bits become the host's; returns the twin's host tensors, to be compared with once more."""
        tensors, meta = self.trainer.trials.take_twin_state()
        return self.trainer.line.adopt(tensors, meta)

    def _refused(self, order: Order, applied: Applied) -> None:
        what = order.seed or order.slot
        self.trainer.recorder.warning(f"order {order.kind} for {what} was refused: {applied.reason}")
        self.trainer.controller.refused(order, applied.reason, self.trainer.epoch)

    # -- rollback ----------------------------------------------------------------------------------------------------

    def suspects(self) -> list[str]:
        """Seeds that may be to blame for a fault: those that touch the host and have no final verdict."""
        return [seed.id for seed in self.trainer.bank.seeds.values() if seed.stage in _TOUCHED]

    def lock(self, seed: str, reason: str) -> None:
        """Lock a seed dormant after a rollback; if it touched the host in the restored state, the twin takes over."""
        bank = self.trainer.bank
        if seed in bank.seeds and bank.seeds[seed].stage not in _DROPPED:
            bank.order(Command.rollback(seed, reason=reason))
            self.follow_up()

    # -- the end of the run --------------------------------------------------------------------------------------------

    def _cull(self, seed: str, reason: str) -> None:
        self.trainer.bank.order(Command.cull(seed, reason=reason))
        self.follow_up()

    def reserve(self, costs: Costs) -> int:
        """FLOPs that must be left for the verdict of the seed on trial."""
        trial, judge = self.trainer.trials.current, self.trainer.spec.judge
        if trial is None:
            return 0
        looks = 2 if judge.mode == "Twice" else 1
        return (looks - trial.looks) * cooldown_flops(costs, judge.replicates)

    # -- state -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {"culled": sorted(self.culled), "idle_reason": self.idle_reason}

    def load(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_dict`."""
        self.culled = set(data["culled"])
        self.idle_reason = data["idle_reason"]
