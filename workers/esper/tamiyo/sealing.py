"""Turns an explained order into the signed command that the seed executor verifies before it does anything."""

from __future__ import annotations

import time
from collections.abc import Callable

from esper.tamiyo.views import Order, OrderKind
from leyline.envelope import FRESHNESS, seal
from leyline.keys import Signer
from leyline.messages import AdaptationCommand, encode, type_of
from leyline.v1 import control_pb2, seed_pb2

COMMANDS = "control.kasmina.commands"
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
        """The order as a signed envelope for ``control.kasmina.commands``."""
        self.sequence += 1
        command = AdaptationCommand(
            command_id=f"{self.run}-{self.sequence}",
            run=self.run,
            epoch=epoch,
            actor=control_pb2.ACTOR_TAMIYO,
            reason=order.reason,
            numbers=dict(order.numbers),
        )
        match order.kind:
            case OrderKind.GERMINATE:
                command.germinate.slot = order.slot
                command.germinate.kernel_artifact_id = order.artifact_id
                command.germinate.blueprint = order.blueprint
                command.germinate.blend = _number(seed_pb2.Blend, "BLEND", order.blend)
                command.germinate.objective = _number(seed_pb2.Objective, "OBJECTIVE", objective)
                command.germinate.alpha_schedule = _number(seed_pb2.AlphaSchedule, "ALPHA_SCHEDULE", schedule)
            case OrderKind.ADVANCE:
                command.advance.seed_id = order.seed or ""
                command.advance.target = int(order.target)
            case OrderKind.CANCEL:
                command.cancel.seed_id = order.seed or ""
            case OrderKind.CULL:
                command.cull.seed_id = order.seed or ""
        now = self._clock()
        return seal(
            encode(command), type_of(command), COMMANDS, PRODUCER, self.sequence, self._signer, now, FRESHNESS,
            run=self.run,
        )  # fmt: skip


def _number(enum: object, prefix: str, name: str) -> int:
    """The wire number of a manifest's CamelCase word; an empty word is UNSPECIFIED, "as the manifest says"."""
    return int(enum.Value(f"{prefix}_{name.upper() if name else 'UNSPECIFIED'}"))  # type: ignore[attr-defined]
