"""A kernel put into a slot for a moment, outside any lifecycle: what a probe needs on its throw-away copy of the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from esper.kasmina.guard import GuardedKernel
from esper.kasmina.seed import Seed
from leyline.lifecycle import Stage
from leyline.resources.enums import AlphaSchedule, Blend, Objective

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kernel import Kernel


@contextmanager
def trying(bank: SeedBank, slot: str, kernel: Kernel) -> Iterator[None]:
    """Within the block the slot's output is u + s(u); no seed is germinated and no event is left.

    Use it on a fork: the bank is changed while the block runs.

    Raises:
        KernelFault: the kernel failed forward or backward inside the block.
    """
    runtime = bank.runtime(slot)
    failures: list[Exception] = []
    seed = Seed(
        id=f"{slot}/probe", slot=slot, ordinal=1 << 30, position=0, artifact_id="", blueprint="",
        blend=Blend.RESIDUAL, objective=Objective.NONE, schedule=AlphaSchedule.LINEAR, stage=Stage.FINE_TUNING,
        kernel=kernel, alpha_buffer=torch.ones(()),
    )  # fmt: skip
    seed.guarded = GuardedKernel(kernel, seed.blend, failures.append)
    runtime.seeds.append(seed)
    bank.sync_hooks()
    try:
        yield
    finally:
        runtime.seeds.remove(seed)
        bank.sync_hooks()
    if failures:
        raise failures[0]
