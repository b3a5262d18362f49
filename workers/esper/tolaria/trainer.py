"""The epoch: train, observe, judge, decide, execute, commit.

Notable choices
- A run's future depends on its committed state alone: random numbers come from (seed, step), data order from
  (seed, epoch), and no clock enters a decision. So a killed run resumes bit for bit.
- Commit before publish: a checkpoint is whole and journaled before anything about its epoch is told to others.
- Several ranks run this same code; what could differ between them is shared or agreed on at the places that name
  ``ranks``. Only the first rank decides, writes and tells.
- All that changes the network happens between epochs, in :meth:`Trainer.settle`.
- Budgets are kept by construction: the number of steps of an epoch is what the remaining FLOPs allow.
"""

from __future__ import annotations

import math
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from esper.errors import CheckpointMismatch, Diverged, NumericalFault, StateCorruption, StepTimeout
from esper.kasmina import SeedSettings
from esper.output import EVENTS_FILE
from esper.tamiyo import Order
from esper.tamiyo.sealing import PRODUCER, Sealer
from esper.tolaria.budget import TRAINING_PASSES, Ledger, Limits
from esper.tolaria.costs import Costs, cooldown_flops, costs_now
from esper.tolaria.device import pick_device, set_threads
from esper.tolaria.governor import Governor, Watchdog
from esper.tolaria.history import Best, History
from esper.tolaria.line import EpochStats, Line, Stopped
from esper.tolaria.outside import Outside
from esper.tolaria.probe import Prober
from esper.tolaria.ranks import ALONE, Ranks
from esper.tolaria.recorder import Recorder
from esper.tolaria.schedule import Progress as ScheduleProgress
from esper.tolaria.settle import Settler
from esper.tolaria.state import MAIN, TWIN, RunState, check_identity, identity, tensors_digest
from esper.tolaria.state_of_ranks import collected, of_rank, shared
from esper.tolaria.store import Checkpoint, Committer, DirectoryStore, pack
from esper.tolaria.trial import TrialBench
from esper.tolaria.undisturbed import collect_young, undisturbed
from esper.tolaria.view import run_view
from leyline.identity import ArtifactId
from leyline.keys import KeyRing, Signer
from leyline.topics import COMMANDS

if TYPE_CHECKING:
    from esper.kasmina import SeedBank
    from esper.tamiyo import RunView, TamiyoController
    from esper.tasks import Task
    from esper.tolaria.shelf import KernelShelf
    from leyline.resources import TrainingRun

GRACE_SECONDS = 30.0
FAULTS = (NumericalFault, StateCorruption, StepTimeout)


@dataclass
class Clock:
    """Times for people: none of them enters a decision."""

    steps: list[float] = field(default_factory=list)
    rollbacks: list[float] = field(default_factory=list)

    @property
    def longest_ms(self) -> float | None:
        """The longest step."""
        return max(self.steps) * 1e3 if self.steps else None

    @property
    def median_ms(self) -> float | None:
        """The median step."""
        return statistics.median(self.steps) * 1e3 if self.steps else None


class Trainer:
    """Trains one run from its first or last committed epoch to its end.

    Args:
        run: the manifest.
        task: data, loss and metrics.
        bank: the wrapped model's seeds.
        controller: decides what grows.
        shelf: the kernels on offer.
        recorder: where news go.
        out: the output directory; None keeps nothing on disk (no resume, rollback from memory only).
        local_task: the task is an object of the caller's that another process could not build again.
        commits: where checkpoints go; into ``out`` if not given.
        ranks: who trains the run together; only the first rank is given a directory or ``commits``.
    """

    def __init__(
        self, run: TrainingRun, task: Task, bank: SeedBank, controller: TamiyoController, shelf: KernelShelf,
        recorder: Recorder, out: Path | None = None, local_task: bool = False, commits: Committer | None = None,
        ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.run, self.spec, self.task, self.bank = run, run.spec, task, bank
        self.controller, self.shelf, self.recorder, self.ranks = controller, shelf, recorder, ranks
        set_threads(self.spec.training.threads)
        self.device = pick_device(self.spec.training.device)
        bank.model.to(self.device)
        bank.configure(SeedSettings.from_spec(self.spec), shelf)
        self.line = Line(task, bank, self.spec, self.device, ranks)
        self.sealer = self._command_channel()
        self.limits = Limits(self.spec.training.epochs, self.spec.budget.parameters, self.spec.budget.training_flops)
        self.ledger, self.history, self.clock = Ledger(), History(), Clock()
        # with several ranks a slow step is one that any of them was slow in: the ranks agree on it in the step itself
        slow = self.spec.governor.step_timeout_seconds if ranks.alone else math.inf
        self.governor = Governor(self.spec.governor.loss_spike, slow)
        self.trials = TrialBench(self.line, run, shelf, in_process=local_task)
        self.prober = Prober(
            self.line, shelf, self.ledger,
            0 if self.spec.controller.placement == "GradientNorm" else self.spec.controller.probe_steps,
        )  # fmt: skip
        self.settler = Settler(self)
        self.outside = Outside(self)
        self.out = out
        self.commits = commits or (Committer(DirectoryStore(out, self.spec.checkpoints.keep)) if out else None)
        self._kept = self.commits is not None
        """The first rank keeps checkpoints."""
        self.committed = 0
        """Number of the last commit, counted over the whole run."""
        self.epoch = 0
        """Finished epochs."""
        self.statistics: dict[str, Any] = {}
        self._good: RunState | None = None
        self._stop: Callable[[], bool] = lambda: False
        per_step = TRAINING_PASSES * bank.host_flops * self.spec.training.batch_size
        self.limits.check_host(
            self.line.parameters, per_step * self.spec.training.gradient_accumulation * self.line.steps_per_epoch
        )

    # -- the page --------------------------------------------------------------------------------------------------

    def train(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the end.

        Args:
            stop: asked before every step; when it says yes, a checkpoint is written and the run can be resumed.

        Raises:
            Stopped: ``stop`` said so, after the checkpoint.
            Diverged: more rollbacks than ``governor.maxRollbacks``.
        """
        self._stop = self.ranks.listen(stop)
        self._kept = self.ranks.share(lambda: self.commits is not None)
        # who waits for a rank that is gone says so; the watchdog is for what hangs here, and comes later
        watchdog = Watchdog(2 * self.spec.governor.step_timeout_seconds + (0.0 if self.ranks.alone else GRACE_SECONDS))
        try:
            self._good = self._good or self.state()
            self.outside.rest(self._stop)
            for epoch, progress in self.epochs():
                try:
                    watchdog.arm(True)
                    stats = self.advance(epoch, progress, watchdog)
                    watchdog.arm(False)
                    self.observe(epoch, stats)
                    orders = [*self.outside.heed(), *self.settler.settle()]
                    self.commit(orders)
                except FAULTS as fault:
                    watchdog.arm(False)
                    self.roll_back(fault)
                self.outside.rest(self._stop)
            self.settler.finish()
            self.outside.ended()
            self.commit([])
            self._await_commits(stopping=False)
        except Stopped:
            self.commit([], whole_epoch=False)
            self._await_commits(stopping=True)
            raise
        finally:
            watchdog.close()
            self.trials.end()

    def epochs(self) -> Iterator[tuple[int, ScheduleProgress]]:
        """The epochs still to do, each with as many steps as the budget allows; ends when none is left."""
        while self.epoch < self.spec.training.epochs:
            costs = self.costs()
            steps = self.line.steps_per_epoch
            if self.spec.budget.training_flops is not None:
                left = self.spec.budget.training_flops - self.ledger.total - self.settler.reserve(costs)
                steps = min(steps, left // costs.step_total)
            if steps <= 0:
                return
            start = self.limits.fraction(self.epoch, self.ledger.total)
            ahead = self.ledger.total + steps * costs.step_total
            yield self.epoch + 1, ScheduleProgress(start, self.limits.fraction(self.epoch + 1, ahead), steps)

    def advance(self, epoch: int, progress: ScheduleProgress, watchdog: Watchdog) -> EpochStats:
        """Train the host and, if a seed is on trial, its twin; book what it cost."""
        costs, trial = self.costs(), self.trials.current
        if trial is not None:
            trial.twin.start_epoch(epoch, progress)
        self.governor.begin_epoch()

        def check(step: int, loss: float) -> None:
            watchdog.beat()
            collect_young(step)
            self.governor.check_step(step, loss)

        try:
            with undisturbed():
                stats = self.line.train_epoch(epoch, progress, self._stop, check)
                if trial is not None:
                    trial.twin.finish_epoch(self._stop, watchdog.beat)
        except FAULTS:
            costs.charge(self.ledger, self.line.cursor.step_in_epoch)  # it was spent, though it will be undone
            raise
        costs.charge(self.ledger, stats.steps)
        self.clock.steps.extend(stats.step_seconds)
        return stats

    def observe(self, epoch: int, stats: EpochStats) -> None:
        """Look at the controller split, at the seeds' state and at the model's health; ends the epoch."""
        began = time.perf_counter()
        self.ranks.together(self._check_health)
        with self.bank.observing():
            seen = self.line.evaluate(self.task.controller)
        self.statistics = {slot: s.to_dict() for slot, s in self.bank.statistics().items()}
        self.bank.boundary(epoch)
        self.epoch = epoch
        for artifact in self.ranks.share(lambda: list(self.shelf.arrivals())):
            self.history.offered.setdefault(artifact, epoch)
        metric = seen.metrics[self.task.metric]
        self.history.add_epoch(stats.loss, seen.loss, metric)
        self._keep_best(epoch, seen.loss, metric)
        seconds = sum(stats.step_seconds) + time.perf_counter() - began
        self.outside.saw_epoch(stats, seconds)
        self.recorder.at(epoch, self.line.step)
        self.recorder.epoch_done(
            {
                "train_loss": stats.loss, "controller_loss": seen.loss, "controller_metric": metric,
                "learning_rate": stats.learning_rate,
                "seconds": seconds, "parameters": self.line.parameters, "flops": self.flops_by_purpose(),
                "seeds_by_stage": self.bank.stage_counts(),
                "median_step_ms": statistics.median(stats.step_seconds) * 1e3 if stats.step_seconds else None,
                "longest_step_ms": max(stats.step_seconds) * 1e3 if stats.step_seconds else None,
                "gradient_norm": stats.gradient_norm,
            },
            self.spec.training.epochs, self.spec.budget.training_flops,
        )  # fmt: skip

    def _check_health(self) -> None:
        self.governor.check_tensors([*self.line.model.named_parameters(), *self.line.model.named_buffers()])
        self.bank.state.verify()

    def _command_channel(self) -> Sealer:
        """A key that lives as long as this process: the controller signs with it, the bank obeys nobody else."""
        key = Signer.hmac("run-commands", secrets.token_bytes(32))
        ring = KeyRing(in_process=True)
        ring.add(key, producers=[PRODUCER], topics=[COMMANDS])
        self.bank.trust(ring, self.run.metadata.name)
        return Sealer(self.run.metadata.name, key)

    # -- what decisions are made of ----------------------------------------------------------------------------------

    def costs(self) -> Costs:
        """What the next step costs and what is left."""
        trial = self.trials.current.seed if self.trials.current is not None else None
        return costs_now(self.line, self.ledger, self.limits, self.epoch, trial)

    def view(self) -> RunView:
        """The run as the controller sees it."""
        return run_view(
            self.run, self.bank, self.history, epoch=self.epoch, step=self.line.step, costs=self.costs(),
            statistics=self.statistics, kernels=self.shelf.offers(self.history.offered),
            probe=lambda candidates: self.prober.measure(self.epoch, candidates),
        )  # fmt: skip

    def orders(self) -> list[Order]:
        """What the controller wants now; the first rank's decides for all."""
        if self.ranks.alone:
            return list(self.controller.decide(self.view()))
        decided = self.ranks.share(self._decide)
        # deciding may have probed, which costs and may find a kernel that fails
        self.ledger = self.prober.ledger = Ledger.from_dict(decided["ledger"])
        for artifact, reason in decided["banned"].items():
            self.bank.loader.cache.ban(artifact, reason)
        return [Order.from_dict(order) for order in decided["orders"]]

    def _decide(self) -> dict[str, Any]:
        orders = self.controller.decide(self.view())
        return {
            "orders": [order.to_dict() for order in orders],
            "ledger": self.ledger.to_dict(),
            "banned": self.bank.loader.cache.banned,
        }

    def flops_by_purpose(self) -> dict[str, int]:
        """Training FLOPs so far: host, grown (kept or still open), twin, culled, probes."""
        return self.ledger.by_purpose(self.settler.culled)

    def strategy_of(self, artifact_id: str) -> str:
        """How a kernel was compiled; empty for no kernel."""
        return ArtifactId.parse(artifact_id).strategy if artifact_id else ""

    def cool_down_cost(self) -> int:
        """Training FLOPs of one look of the judge."""
        return cooldown_flops(self.costs(), self.spec.judge.replicates)

    def _keep_best(self, epoch: int, loss: float, metric: float) -> None:
        best = self.history.best
        sign = 1.0 if self.task.higher_is_better else -1.0
        if best is None or sign * metric > sign * best.controller_metric:
            report = self.line.evaluate(self.task.report)
            self.history.best = Best(epoch, loss, metric, report.loss, report.metrics[self.task.metric])

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> RunState:
        """Everything that decides the run's future bits."""
        tensors, main = self.line.export_state()
        merged = {MAIN + name: value for name, value in tensors.items()}
        trial = self.trials.current
        twin = None
        if trial is not None:
            tensors, meta = trial.twin.export_state()
            merged.update({TWIN + name: value for name, value in tensors.items()})
            twin = {"seed": trial.seed, "looks": trial.looks, "line": meta}
        return RunState(
            merged,
            {
                "identity": identity(self.run, self.line, self.ranks.world), "epoch": self.epoch,
                "step": self.line.step, "main": main, "twin": twin,
                "ledger": self.ledger.to_dict(), "history": self.history.to_dict(),
                "statistics": self.statistics, "governor": self.governor.to_dict(),
                "controller": self.controller.state_dict(), "settler": self.settler.to_dict(),
                "sequence": self.sealer.sequence, "portfolio": self.shelf.to_dict(), "commit": self.committed,
                "outside": self.outside.to_dict(),
            },
        )  # fmt: skip

    def restore(self, state: RunState) -> None:
        """Go to exactly where a state was taken."""
        check_identity(state.meta["identity"], identity(self.run, self.line, self.ranks.world))
        state = of_rank(state, self.ranks.rank)
        meta = state.meta
        self.trials.end()
        self.ranks.together(lambda: self.line.import_state(state.part(MAIN), meta["main"], self.shelf))
        if meta["twin"] is not None:
            twin = meta["twin"]
            self.trials.restore(twin["seed"], twin["looks"], (state.part(TWIN), twin["line"]))
        self.epoch = meta["epoch"]
        self.ledger = self.prober.ledger = Ledger.from_dict(meta["ledger"])
        self.history = History.from_dict(meta["history"])
        self.statistics = meta["statistics"]
        self.governor.load(meta["governor"])
        self.controller.load_state_dict(meta["controller"])
        self.settler.load(meta["settler"])
        self.sealer.sequence = max(self.sealer.sequence, meta["sequence"])
        self.committed = max(self.committed, meta["commit"])
        self.shelf.load(meta["portfolio"])

    def resume(self, checkpoint: Checkpoint | None = None) -> int | None:
        """Restore a checkpoint, if not given the newest; returns the event log's offset, or None when there is none.

        Raises:
            CheckpointMismatch: the checkpoint is of another run, or all of them are damaged.
        """
        state = shared(self.ranks, lambda: self._given(checkpoint))
        if state is None:
            return None
        self.restore(state)
        self.outside.load(state.meta["outside"])
        self._good = state
        return int(state.meta["events_offset"])

    def _given(self, checkpoint: Checkpoint | None) -> RunState | None:
        found = checkpoint or self.newest()
        return None if found is None else RunState.of(found)

    def newest(self) -> Checkpoint | None:
        """Take the run over and read its newest whole checkpoint; None when there is none.

        Raises:
            CheckpointMismatch: all of them are damaged.
        """
        if self.commits is None:
            return None
        self.commits.store.claim()
        checkpoint, problems = self.commits.store.newest()
        if checkpoint is None and problems:
            raise CheckpointMismatch("no checkpoint can be used:\n  " + "\n  ".join(problems))
        for problem in problems:
            self.recorder.progress.message(f"skipped: {problem}", "warning")
        return checkpoint

    def commit(self, orders: list[dict[str, Any]], whole_epoch: bool = True) -> None:
        """Make the epoch durable, checkpoint and journal in one; only then is anything told to others."""
        due = self.epoch % self.spec.checkpoints.every_epochs == 0 or self.epoch == self.spec.training.epochs
        durable = self._kept and (due or not whole_epoch or self.outside.owes)
        self.committed += durable
        state = self.state()
        state.meta["events_offset"] = self.recorder.commit()
        if whole_epoch:
            self._good = state
            if not self.ranks.alone:
                self.ranks.check_same(f"the state after epoch {self.epoch}", tensors_digest(state.tensors))
        else:
            state = collected(self.ranks, state)
        if durable:
            self.ranks.share(lambda: self._put(state, orders))
            if not self.ranks.first:
                self.outside.followed()

    def _put(self, state: RunState, orders: list[dict[str, Any]]) -> None:
        assert self.commits is not None
        entry = {
            "commit": self.committed, "epoch": self.epoch, "step": state.meta["step"], "orders": orders,
            "arrived": sorted(a for a, epoch in self.history.offered.items() if epoch == self.epoch),
            **self.outside.entry(),
        }  # fmt: skip
        logs = {EVENTS_FILE: state.meta["events_offset"]} if self.recorder.out else {}
        then = self.outside.committed(self.committed, entry)
        stop = self._stop if self.ranks.alone else lambda: bool(self.ranks.asked())
        self.commits.put(pack(state.tensors, state.meta, entry, logs), then, stop)
        self._note_stored()

    def _await_commits(self, stopping: bool) -> None:
        if self.commits is not None:
            self.commits.finish(stopping)
            self._note_stored()

    def _note_stored(self) -> None:
        for stored in self.commits.stored() if self.commits is not None else ():
            self.recorder.checkpoint(stored.name, stored.size, stored.seconds)

    def roll_back(self, fault: Exception) -> None:
        """Return to the last good state and lock the seed that may be to blame.

        A seed that was touching the host is replaced by its twin's host and locked dormant. With no seed to blame a
        numerical fault would come again, bit for bit, so the learning rate is halved from there on.

        Raises:
            Diverged: this was one rollback too many.
        """
        began = time.perf_counter()
        failed, rollbacks = self.epoch + 1, self.history.rollbacks + 1
        spent = self.ledger
        if rollbacks > self.spec.governor.max_rollbacks:
            raise Diverged(
                f"epoch {failed} failed after {rollbacks - 1} rollbacks: {fault}. "
                "Lower spec.training.optimizer.learningRate or set spec.training.gradientClip"
            ) from fault
        blamed = self.settler.suspects()
        state = self._good
        if state is None:
            raise Diverged(f"{fault}, and there is no good state to return to") from fault
        self.restore(state)
        self.outside.undone()
        # compute that was burnt stays booked, whatever came of it
        self.ledger = self.prober.ledger = spent
        self.history.rollbacks = rollbacks
        self.history.spike_epoch = failed
        for seed in blamed:
            self.settler.lock(seed, f"rolled back: {fault}")
        if not blamed and isinstance(fault, NumericalFault):
            self.line.rate_scale *= 0.5
        took = time.perf_counter() - began
        self.clock.rollbacks.append(took)
        self.recorder.at(failed, self.line.step)
        self.recorder.rollback(self.epoch, str(fault), ", ".join(blamed), took)
        self._good = self.state()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
