"""The run ends while a seed is still on its way: it goes through what is left of its stages at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.kasmina.gates import GateResult
from esper.kasmina.seed import AFFECTS_HOST
from esper.kasmina.transitions import move, next_stage
from leyline.errors import LifecycleError
from leyline.lifecycle import Actor, Stage, check

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank
    from esper.kasmina.seed import Seed

_ON_THE_WAY = AFFECTS_HOST - {Stage.FOSSILIZED}


def conclude(bank: SeedBank, seed: Seed, reason: str) -> None:
    """Take a seed that affects the host to FOSSILIZED, stage by stage; alpha stays where the ramp has brought it.

    The gates on the way are recorded as skipped, with the reason.

    Raises:
        LifecycleError: the seed does not affect the host, or is fossilized already.
    """
    if seed.stage not in _ON_THE_WAY:
        raise LifecycleError(f"{seed.id} to FOSSILIZED", f"it is in {seed.stage.name}", "GRAFTING to FINE_TUNING")
    while seed.stage in _ON_THE_WAY:
        target = next_stage(seed)
        asked = check(seed.stage, target, Actor.TAMIYO, seed.trainable).gates
        skipped = tuple(GateResult(gate, True, f"skipped: {reason}") for gate in asked)
        move(bank, seed, target, Actor.TAMIYO, reason, results=skipped)
    bank.refresh()
