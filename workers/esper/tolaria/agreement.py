"""One training step on several ranks: gradients become their mean, and whatever one rank met becomes everyone's.

A step has one collective. It carries the gradients of all parameters the optimizer holds, grafted seeds' included, and
a short note from each rank: its loss, whether it failed, was too slow, was asked to stop or lost a kernel, and the
checksum of its seeds' state. So nothing of it needs a collective of its own, and all ranks act on it in the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from esper.errors import RankLost, RanksDisagree, StepTimeout

if TYPE_CHECKING:
    from esper.kasmina import SeedBank
    from esper.tolaria.ranks import Ranks

T = TypeVar("T")
_SIXTEEN_BITS = 0xFFFF


class StepAgreement:
    """Brings the ranks' parts of a step together.

    Args:
        ranks: who trains together.
        bank: the line's seeds.
        limit: seconds that a rank's own part of a step may take.
    """

    def __init__(self, ranks: Ranks, bank: SeedBank, limit: float) -> None:
        self.ranks, self.bank, self.limit = ranks, bank, limit

    def step(self, parameters: list[nn.Parameter], backward: Callable[[], tuple[float, T]]) -> tuple[float, T]:
        """Run this rank's forward and backward passes and give every parameter the mean gradient.

        Args:
            parameters: those the optimizer holds, in its order.
            backward: returns the mean loss of this rank's part, and anything else.

        Returns:
            The mean loss of the whole batch, the same on every rank, and what ``backward`` returned besides.

        Raises:
            StepTimeout: a rank's part took longer than the limit.
            RanksDisagree: the seeds' states differ.
            RankLost: a rank is gone.
            EsperError: what failed on any rank.
        """
        checksum = self.bank.state.crc
        began = time.monotonic()
        failure, loss, rest = None, math.nan, None
        try:
            loss, rest = backward()
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001  told to the other ranks, then raised
            failure = error
        late = time.monotonic() - began > self.limit
        note = (
            loss, float(failure is not None), float(late), float(self.ranks.asked()), float(len(self.bank.faulted)),
            float(checksum >> 16), float(checksum & _SIXTEEN_BITS),
        )  # fmt: skip
        means, notes = self.ranks.reduce([parameter.grad for parameter in parameters], parameters, note)
        losses, failed, slow, asked, faults, high, low = (list(column) for column in zip(*notes, strict=True))
        self.ranks.stopped_by = self.ranks.stopped_by or int(max(asked))
        if any(failed):
            self.ranks.fail_together(failure)
        if len(set(zip(high, low, strict=True))) > 1:
            raise RanksDisagree(
                "the seeds' states differ between ranks; the last checkpoint is whole: start all ranks again with "
                "--resume"
            )
        if any(slow):
            where = ", ".join(str(rank) for rank, value in enumerate(slow) if value)
            raise StepTimeout(
                f"a step took longer than {self.limit:g} s on rank {where}; "
                f"spec.governor.stepTimeoutSeconds is {self.limit:g}"
            )
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean
        if any(faults):
            self.bank.agree_on_faults()
        assert rest is not None
        return sum(losses) / len(losses), rest
