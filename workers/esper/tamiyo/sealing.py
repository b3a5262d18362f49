"""Turns an explained order into the signed command that the seed executor verifies before it does anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from esper.tamiyo.messages import command_message
from leyline.envelope import FRESHNESS, seal
from leyline.messages import encode, type_of
from leyline.topics import COMMANDS

if TYPE_CHECKING:
    from esper.tamiyo.views import Order
    from leyline.keys import Signer

PRODUCER = "tamiyo"


class Sealer:
    """Signs the commands of one run; each carries the next sequence number.

    Args:
        run: the run's name.
        signer: the run's own command key (HMAC inside one process, Ed25519 between processes).
        sequence: the last number used, from a checkpoint.
        clock: wall-clock seconds for the freshness check; decides nothing else.
    """

    def __init__(self, run: str, signer: Signer, sequence: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.run, self.sequence = run, sequence
        self._signer, self._clock = signer, clock

    def seal(self, order: Order, epoch: int, objective: str = "", schedule: str = "") -> bytes:
        """The order as a signed envelope for ``control.kasmina.commands``, fresh for 30 seconds."""
        self.sequence += 1
        command = command_message(
            order, self.run, epoch, f"{self.run}-{self.sequence}", objective=objective, schedule=schedule
        )
        return seal(
            encode(command),
            type_of(command),
            COMMANDS,
            PRODUCER,
            self.sequence,
            self._signer,
            self._clock(),
            FRESHNESS,
            run=self.run,
        )
