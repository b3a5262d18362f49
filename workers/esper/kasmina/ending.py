"""The run ends while a seed is still on its way: it goes through what is left of its stages at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina.transitions import NEXT, move
from leyline.lifecycle import Actor, Stage

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kasmina.seed import Seed


def conclude(bank: SeedBank, seed: Seed, reason: str) -> None:
    """Take a seed that affects the host to FOSSILIZED, stage by stage; alpha stays where the ramp has brought it.

    Raises:
        LifecycleError: the seed is in a stage that does not lead there.
    """
    while seed.stage is not Stage.FOSSILIZED:
        target = NEXT[seed.stage]
        if seed.stage is Stage.EVALUATING and not seed.trainable:
            target = Stage.FOSSILIZED
        move(bank, seed, target, Actor.TAMIYO, reason)
    bank.refresh()
