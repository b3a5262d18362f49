"""Tells the world what a run does: events, TensorBoard and the user's screen, from one call each.

A run without an output directory (the SDK in a notebook) has no files; progress is always there, if only silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.output import EVENTS_FILE, EventLog, Progress, Silent
from esper.output.board import Board

if TYPE_CHECKING:
    from esper.kasmina import GateResult, SeedEvent
    from esper.tamiyo import Order
    from esper.tolaria.judge import Verdict


class Recorder:
    """Where a run's news go.

    Args:
        out: the output directory; None writes no files.
        progress: what the user sees.
    """

    def __init__(self, out: Path | None = None, progress: Progress | None = None) -> None:
        self.out = out
        self.progress: Progress = progress or Silent()
        self._events: EventLog | None = None
        self._board: Board | None = None
        self.epoch = self.step = 0

    def open(self, metric: str, resume_offset: int | None, step: int) -> None:
        """Open the files; on a resume forget what came after the checkpoint."""
        if self.out is None:
            return
        self._events = EventLog(self.out / EVENTS_FILE)
        if resume_offset is not None:
            self._events.truncate_to(resume_offset)
        self._board = Board(self.out, metric, resume_after=None if resume_offset is None else step)

    def at(self, epoch: int, step: int) -> None:
        """What follows happened at this epoch and step."""
        self.epoch, self.step = epoch, step

    def started(self, **fields: Any) -> None:
        """The process began to work on the run."""
        if self._events is not None:
            self._events.run_started(epoch=self.epoch, step=self.step, **fields)

    def epoch_done(self, stats: Mapping[str, Any], epochs: int, budget: int | None) -> None:
        """An epoch ended."""
        if self._events is not None and self._board is not None:
            self._events.epoch(epoch=self.epoch, step=self.step, **stats)
            self._board.epoch(self.step, stats)
        self.progress.epoch({**stats, "epoch": self.epoch, "epochs": epochs, "budget": budget})

    def seed(self, event: SeedEvent, strategy: str) -> None:
        """A seed changed its stage."""
        source, target = event.source.name, event.target.name
        if self._events is not None:
            self._events.seed(
                epoch=self.epoch, step=self.step, seed=event.seed, slot=event.slot, source=source, target=target,
                reason=event.reason, blueprint=event.blueprint, kernel=event.artifact_id, strategy=strategy,
                numbers=event.numbers,
            )  # fmt: skip
        for gate in event.gates:
            self.gate(event.seed, gate)
        self.progress.seed_event(event.seed, source, target, event.reason, blueprint=event.blueprint)

    def gate(self, seed: str, gate: GateResult) -> None:
        """A gate looked at a seed."""
        if self._events is not None:
            self._events.gate(
                epoch=self.epoch, step=self.step, seed=seed, gate=str(gate.gate), passed=gate.passed,
                reason=gate.reason, numbers=gate.numbers,
            )  # fmt: skip

    def decisions(self, orders: Sequence[Order]) -> None:
        """The controller's orders, each with its reason."""
        if self._events is None:
            return
        for order in orders:
            self._events.decision(
                epoch=self.epoch, step=self.step, action=str(order.kind), reason=order.reason, seed=order.seed or "",
                slot=order.slot, blueprint=order.blueprint, kernel=order.artifact_id, numbers=order.numbers,
            )  # fmt: skip

    def idle(self, reason: str) -> None:
        """The controller decided to do nothing, and why; only when the reason is a new one."""
        if self._events is not None:
            self._events.decision(epoch=self.epoch, step=self.step, action="none", reason=reason)

    def verdict(self, seed: str, verdict: Verdict) -> None:
        """The judge has spoken."""
        reason = verdict_in_words(verdict)
        if self._events is not None:
            self._events.verdict(
                epoch=self.epoch, step=self.step, seed=seed, passed=verdict.passed, reason=reason,
                difference=verdict.effect, low=verdict.low, high=verdict.high, p_value=verdict.p_value,
                threshold=verdict.threshold, t=verdict.t, examples=verdict.examples, replicates=verdict.replicates,
                host_loss=verdict.host_loss, twin_loss=verdict.twin_loss,
            )  # fmt: skip
        self.progress.message(f"{seed}: {reason}")

    def rollback(self, to_epoch: int, cause: str, seed: str, seconds: float) -> None:
        """The governor went back."""
        if self._events is not None:
            self._events.rollback(
                epoch=self.epoch, step=self.step, to_epoch=to_epoch, cause=cause, seed=seed, seconds=seconds
            )
        self.progress.message(f"rolled back to the end of epoch {to_epoch}: {cause}", "warning")

    def checkpoint(self, name: str, size: int, seconds: float) -> None:
        """A checkpoint is durable."""
        if self._events is not None:
            self._events.checkpoint(epoch=self.epoch, step=self.step, path=name, size=size, seconds=seconds)

    def kernel(self, **fields: Any) -> None:
        """A kernel became ready, was rejected or was evicted."""
        if self._events is not None:
            self._events.kernel(epoch=self.epoch, step=self.step, **fields)

    def command(self, command: str, action: str, by: str, seed: str, applied: bool, reason: str) -> None:
        """A person's command was taken up."""
        if self._events is not None:
            self._events.command(
                epoch=self.epoch, step=self.step, command=command, action=action, by=by, seed=seed, applied=applied,
                reason=reason,
            )  # fmt: skip
        done = "done" if applied else "refused"
        self.progress.message(f"{action}{f' {seed}' if seed else ''} by {by}: {done}: {reason}")

    def warning(self, text: str) -> None:
        """Something the user should know."""
        if self._events is not None:
            self._events.warning(epoch=self.epoch, step=self.step, text=text)
        self.progress.message(text, "warning")

    def commit(self) -> int:
        """Make events durable; returns the offset a checkpoint remembers (0 without files)."""
        if self._events is None or self._board is None:
            return 0
        self._board.flush()
        return self._events.commit()

    def finished(self, phase: str, reason: str, seconds: float) -> None:
        """The process is done with the run."""
        if self._events is not None:
            self._events.run_finished(epoch=self.epoch, step=self.step, phase=phase, reason=reason, seconds=seconds)

    def close(self) -> None:
        """Close the files; safe to call twice."""
        if self._events is not None and self._board is not None:
            self._events.close()
            self._board.close()


def verdict_in_words(verdict: Verdict) -> str:
    """One sentence for people."""
    what = "earned its place" if verdict.passed else "did not earn its place"
    return (
        f"{what}: loss {verdict.host_loss:.4f} against the twin's {verdict.twin_loss:.4f}, "
        f"difference {verdict.effect:+.4f} [{verdict.low:+.4f}, {verdict.high:+.4f}], p = {verdict.p_value:.2g} "
        f"(threshold {verdict.threshold:g})"
    )
