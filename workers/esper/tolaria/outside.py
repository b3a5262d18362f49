"""A run and the world around it: people's commands are taken up at boundaries, news go out after their commit.

A run on one machine has neither desk nor herald; nothing here then does anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esper.kasmina import Command
from esper.tamiyo.messages import report_message
from esper.tolaria.desk import Asked, Desk, Result
from esper.tolaria.herald import Herald, News
from esper.tolaria.line import Stopped
from esper.tolaria.packets import command_result, seed_state, system_state, telemetry
from leyline.lifecycle import Actor

if TYPE_CHECKING:
    from esper.tamiyo.reports import FieldReport
    from esper.tolaria.line import EpochStats
    from esper.tolaria.trainer import Trainer

PAUSE_SECONDS = 0.5
"""How often a paused run looks whether it was asked to stop."""


class Outside:
    """What a trainer has to do with others.

    Attributes:
        desk: where commands come from; None takes none.
        herald: who publishes; None tells nobody.
        hardware: what the run's kernels are built for, as reports say it.
        paused: a person has asked the run to wait.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.desk: Desk | None = None
        self.herald: Herald | None = None
        self.hardware = ""
        self.paused = self._paused_before = False
        self.seeds: list[dict[str, Any]] = []
        """The seeds as they were committed last, for who asks from another thread."""
        self.flops = 0
        """Training FLOPs spent, as of then."""
        self._token = secrets.token_hex(8)
        """Tells the messages of this run from those of another one with its name."""
        self._told = 0
        self._news: list[News] = []
        self._fleeting: list[News] = []
        self._owed: list[Result] = []
        self._seen: tuple[EpochStats, float, list[Any]] | None = None
        """Of the last epoch: how it went, how long it took, and the seeds as they were told."""

    # -- telling -----------------------------------------------------------------------------------------------------

    def saw_epoch(self, stats: EpochStats, seconds: float) -> None:
        """An epoch was observed."""
        if self.herald is None:
            return
        trainer, run = self._trainer, self._trainer.run.metadata.name
        packet = system_state(trainer, stats, seconds)
        self._seen = stats, seconds, list(packet.seeds)
        self._news.append(News(f"{self._token}-epoch-{trainer.epoch}", "tolaria", run, packet))
        self._fleeting = [
            *(News("", "kasmina", run, seed_state(trainer, seed)) for seed in trainer.bank.seeds.values()),
            *(News("", "kasmina", run, packet) for packet in telemetry(trainer)),
        ]

    def ended(self) -> None:
        """The run is over and its open seeds are settled: nobody may go on believing the last epoch's stages.

        A run that was resumed after its last epoch has nothing to say that again with.
        """
        if self.herald is None or self._seen is None:
            return
        stats, seconds, told = self._seen
        packet = system_state(self._trainer, stats, seconds)
        if list(packet.seeds) != told:
            name = f"{self._token}-epoch-{self._trainer.epoch}-settled"
            self._news.append(News(name, "tolaria", self._trainer.run.metadata.name, packet))

    def report(self, report: FieldReport) -> None:
        """A seed's story is over; the controller's receiver of reports."""
        if self.herald is not None:
            message = report_message(report, hardware=self.hardware, metric=self._trainer.task.metric)
            self._news.append(News(f"{self._token}-report-{report.id}", "tamiyo", report.blueprint, message))

    @property
    def owes(self) -> bool:
        """Somebody waits for an answer: the next commit must not be left out."""
        return bool(self._owed)

    def entry(self) -> dict[str, Any]:
        """What the journal keeps of this: the news of the commit."""
        run = self._trainer.run.metadata.name
        answers = [
            News(f"{self._token}-command-{each.asked.command_id}", "tolaria", run, command_result(run, each))
            for each in self._owed
        ]
        return {"news": [each.to_dict() for each in (*self._news, *answers)]} if self.herald is not None else {}

    def committed(self, number: int, entry: Mapping[str, Any]) -> Callable[[], None]:
        """The commit was handed over; returns what is to be called once it is durable."""
        herald, fleeting = self.herald, self._fleeting
        self._news, self._fleeting, self._owed = [], [], []
        self._paused_before = self.paused
        self.look()
        return lambda: herald.release(number, entry["news"], fleeting) if herald is not None else None

    def look(self) -> None:
        """Take down how the run is."""
        self.flops = self._trainer.ledger.total
        self.seeds = [
            {
                "seed": seed.id, "slot": seed.slot, "stage": seed.stage.name, "blueprint": seed.blueprint,
                "kernel": seed.artifact_id, "alpha": round(seed.alpha, 6), "ready": seed.ready,
                "reason": seed.reason, "since_epoch": seed.entered_epoch,
            }
            for seed in self._trainer.bank.seeds.values()
        ]  # fmt: skip

    # -- heeding -----------------------------------------------------------------------------------------------------

    def heed(self) -> list[dict[str, Any]]:
        """Carry out the commands that came; returns them, with what became of them, for the journal."""
        return [self._carry_out(asked) for asked in self._asked()]

    def rest(self, stop: Callable[[], bool]) -> None:
        """Wait while the run is paused, computing nothing; commands are taken up, and committed at once.

        Raises:
            Stopped: ``stop`` said so.
        """
        trainer = self._trainer
        if self.paused and not trainer.ranks.share(lambda: self.desk is not None):
            self.paused = False
            trainer.recorder.warning("the run was paused; it goes on, for here nobody could order that")
        while self.paused:
            if trainer.ranks.stops_now(stop):
                raise Stopped
            if self.desk is not None:
                self.desk.wait(PAUSE_SECONDS)
            if orders := self.heed():
                trainer.commit(orders)

    def _asked(self) -> Iterable[Asked]:
        """With several ranks, what the first one's desk has is for all of them."""
        ranks = self._trainer.ranks
        if ranks.alone:
            return self.desk.take() if self.desk is not None else ()
        taken = ranks.share(lambda: [asked.to_dict() for asked in (self.desk.take() if self.desk is not None else ())])
        return [Asked(**asked) for asked in taken]

    def followed(self) -> None:
        """The first rank has made a commit durable; on the others nothing of it is told or owed."""
        self._news, self._fleeting, self._owed = [], [], []
        self._paused_before = self.paused

    def _carry_out(self, asked: Asked) -> dict[str, Any]:
        trainer = self._trainer
        applied, reason, error = self._effect(asked)
        result = Result(asked, applied, reason, error, trainer.epoch, trainer.line.step)
        trainer.recorder.command(asked.command_id, asked.action, asked.producer, asked.seed, applied, reason)
        if self.desk is not None:
            self.desk.results.append(result)
        self._owed.append(result)
        return {
            "kind": asked.action, "seed": asked.seed or None, "actor": str(Actor.PERSON), "by": asked.producer,
            "command": asked.command_id, "reason": asked.reason, "accepted": applied, "answer": reason,
        }  # fmt: skip

    def _effect(self, asked: Asked) -> tuple[bool, str, str]:
        trainer = self._trainer
        if asked.action in ("pause", "resume"):
            if asked.seed:
                return False, "a seed can't be held by itself; leave it out to hold the run", "NotSupported"
            before, self.paused = self.paused, asked.action == "pause"
            word = "paused" if self.paused else "running"
            return True, f"the run was {word} already" if before == self.paused else f"the run is {word}", ""
        if asked.action == "checkpoint":
            return True, f"checkpoint step-{trainer.line.step:012d}", ""
        why = asked.reason or f"{asked.action} ordered by {asked.producer}"
        make = Command.cancel if asked.action == "cancel" else Command.cull
        applied = trainer.bank.order(replace(make(asked.seed, reason=why), actor=Actor.PERSON))
        trainer.settler.follow_up()
        return applied.accepted, applied.reason, applied.error

    # -- state -------------------------------------------------------------------------------------------------------

    def undone(self) -> None:
        """A rollback has undone what is not committed: its news are no news, and commands had no effect."""
        self._news, self._fleeting = [], []
        self.paused = self._paused_before
        self._owed = [
            replace(each, applied=False, reason="undone by a rollback; order it again", error="RolledBack")
            for each in self._owed
        ]
        if self.desk is not None:
            known = {each.asked.command_id: each for each in self._owed}
            for place, each in enumerate(self.desk.results):
                self.desk.results[place] = known.get(each.asked.command_id, each)

    def to_dict(self) -> dict[str, Any]:
        """What must survive a restart."""
        return {
            "paused": self.paused,
            "token": self._token,
            "told": self.herald.confirmed if self.herald is not None else self._told,
            "desk": self.desk.to_dict() if self.desk is not None else None,
        }

    def load(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_dict`, for a resume."""
        self.paused = self._paused_before = data["paused"]
        self._token, self._told = data["token"], data["told"]
        if self.desk is not None and data["desk"] is not None:
            self.desk.load(data["desk"])

    def begin(self) -> None:
        """Begin to listen and to tell; what was committed and not confirmed is told again."""
        self.look()
        if self.herald is not None:
            self.herald.open(self._told, self._trainer.committed)
        if self.desk is not None:
            self.desk.open()
