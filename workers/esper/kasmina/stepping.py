"""What a bank does inside a training step: alpha ramps, learning in isolation, and what becomes of a kernel that
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from esper.kasmina import transitions
from esper.kasmina.blending import alpha_at
from esper.kasmina.guard import KernelFault
from esper.kasmina.isolation import IsolatedLearner, Lesson
from esper.kasmina.loading import KernelReport
from esper.kasmina.seed import Scale, Seed
from esper.kasmina.snapshot import untouched, untouched_rng
from leyline.lifecycle import Actor, Stage, allowed
from leyline.resources.enums import Objective

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank


@dataclass(frozen=True)
class Faulted:
    """A seed's kernel failed, or was failed by the host, inside a pass."""

    seed: str
    reason: str
    blame_kernel: bool


def ramp(seed: Seed, *, first_of_epoch: bool) -> None:
    """Move the alpha of a seed being grafted by one step."""
    if first_of_epoch:
        seed.scale = Scale()
    seed.ramp_done += 1
    seed.alpha_buffer.fill_(alpha_at(seed.schedule, seed.ramp_done / seed.ramp_steps))


def learn(bank: SeedBank, seed: Seed, forward_loss: Callable[[], Tensor]) -> bool:
    """Let a seed in isolation take one step; False if there was nothing to learn from, or its kernel failed."""
    learner = seed.learner
    lesson = lesson_of(bank, seed, forward_loss)
    if learner is None or lesson is None:
        return False
    try:
        with untouched_rng():
            learner.take(lesson)
    except Exception as error:  # noqa: BLE001  nothing but the seed's own kernel is involved here
        fault(bank, seed, error)
        return False
    return True


def lesson_of(bank: SeedBank, seed: Seed, forward_loss: Callable[[], Tensor]) -> Lesson | None:
    """What this step has to teach a seed in isolation; None if that is nothing, or its kernel failed."""
    learner = seed.learner
    if seed.stage is not Stage.TRAINING or learner is None:
        return None
    if learner.objective is Objective.SHADOW:
        return _lesson_of_shadow(bank, seed, learner, forward_loss)
    try:
        with untouched_rng():
            return learner.lesson(forward_loss)
    except Exception as error:  # noqa: BLE001  nothing but the seed's own kernel runs here
        fault(bank, seed, error)
        return None


def _lesson_of_shadow(
    bank: SeedBank, seed: Seed, learner: IsolatedLearner, forward_loss: Callable[[], Tensor]
) -> Lesson | None:
    def loss_with_seed() -> Tensor:
        loss = forward_loss()
        if seed.stage is not Stage.TRAINING:
            raise KernelFault(seed.fault)
        return loss

    try:
        with _shadow(bank, seed):
            return learner.lesson(loss_with_seed)
    except KernelFault:
        # noted when it happened: the guard reports to fault()
        return None


@contextmanager
def _shadow(bank: SeedBank, seed: Seed) -> Iterator[None]:
    with untouched(bank.model):
        bank.shadowing = seed
        bank.sync_hooks()
        try:
            yield
        finally:
            bank.shadowing = None
            bank.sync_hooks()


def fault(bank: SeedBank, seed: Seed, error: Exception, *, blame_kernel: bool = True) -> None:
    """Take note that a seed failed inside a forward or backward pass; see :meth:`SeedBank.fault`."""
    seed.faults += 1
    seed.fault = str(error) or type(error).__name__
    seed.learner = None
    bank.faulted.append(Faulted(seed.id, seed.fault, blame_kernel))
    bank.mark_dirty()
    if blame_kernel:
        bank.loader.cache.ban(seed.artifact_id, seed.fault)
        bank.report(KernelReport(seed.artifact_id, seed.id, seed.slot, "run", seed.fault))
    if seed.stage is Stage.FOSSILIZED:
        if blame_kernel:
            seed.switched_off, seed.reference_only = seed.reference_only, True
    elif Stage.ERROR_RECOVERY in allowed(seed.stage):
        transitions.move(bank, seed, Stage.ERROR_RECOVERY, Actor.KASMINA, f"kernel failed at run time: {seed.fault}")
