"""Signed commands: an envelope is verified first, and only then read as a command and carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from esper.kasmina.commands import Applied, Command, CommandKind
from esper.kasmina.orders import order
from leyline.envelope import FRESHNESS, open_
from leyline.errors import LeylineError
from leyline.keys import KeyRing
from leyline.lifecycle import Actor, Stage
from leyline.messages import AdaptationCommand
from leyline.replay import ReplayGuard
from leyline.resources.enums import AlphaSchedule, Blend, Objective
from leyline.topics import COMMANDS, role_of

if TYPE_CHECKING:
    from esper.kasmina.bank import SeedBank

_BLENDS: Mapping[int, Blend] = {1: Blend.RESIDUAL, 2: Blend.CONVEX}
_OBJECTIVES: Mapping[int, Objective] = {
    1: Objective.NONE,
    2: Objective.RECONSTRUCTION,
    3: Objective.SHADOW,
    4: Objective.TASK,
}
_SCHEDULES: Mapping[int, AlphaSchedule] = {
    1: AlphaSchedule.LINEAR,
    2: AlphaSchedule.COSINE,
    3: AlphaSchedule.SIGMOID,
}
_ACTORS: Mapping[int, str] = {1: "tamiyo", 2: "kasmina", 3: "tolaria"}
_KINDS = {
    "germinate": CommandKind.GERMINATE,
    "advance": CommandKind.ADVANCE,
    "cancel": CommandKind.CANCEL,
    "cull": CommandKind.CULL,
    "rollback": CommandKind.ROLLBACK,
}


class Receiver:
    """Whom a bank takes commands from.

    Args:
        keyring: the keys commands may be signed with, by producer.
        run: the run commands must be addressed to.
        clock: seconds since 1970, for freshness only.
    """

    def __init__(self, keyring: KeyRing, run: str, clock: Callable[[], float] = time.time) -> None:
        self.keyring, self.run, self.clock = keyring, run, clock
        self.guard = ReplayGuard()

    def sequences(self) -> list[Any]:
        """The last sequence number of each producer, for a checkpoint."""
        found: list[Any] = self.guard.export_state()["sequences"]
        return found

    def restore(self, sequences: list[Any]) -> None:
        """Go back to the sequence numbers of a checkpoint.

        Nonces are not part of it (they are random, a checkpoint is not); those seen in this process stay refused, so
        that a rollback opens no door for commands of the undone stretch.
        """
        self.guard.import_state({**self.guard.export_state(), "sequences": sequences})


class _Refused(Exception):
    """The envelope holds, but what is in it can't be a command here."""


def execute(bank: SeedBank, envelope: bytes, now: float | None, message_id: str | None) -> Applied:
    """See :meth:`esper.kasmina.bank.SeedBank.execute`."""
    receiver = bank.receiver
    if receiver is None:
        return Applied(
            None, False, "this bank takes no signed commands; give it a key ring with trust()", error="NoKeys"
        )
    try:
        opened = open_(
            envelope,
            COMMANDS,
            receiver.keyring,
            receiver.clock() if now is None else now,
            receiver.guard,
            FRESHNESS,
            message_id=message_id,
        )
        command = _command(opened.payload, role_of(opened.producer), {receiver.run, opened.run})
    except LeylineError as error:
        return Applied(None, False, str(error), error=type(error).__name__)
    except _Refused as error:
        return Applied(None, False, str(error), error="MalformedCommand")
    receiver.guard.done(opened.nonce)
    return order(bank, command)


def _command(payload: bytes, role: str, runs: set[str]) -> Command:
    message = AdaptationCommand()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise _Refused(f"the payload is no AdaptationCommand ({error})") from error
    if runs != {message.run}:
        raise _Refused(f"the command is for run {message.run!r}, sealed for and received by {sorted(runs)}")
    if _ACTORS.get(message.actor) != role:
        raise _Refused(f"sealed by {role!r} in the name of {_ACTORS.get(message.actor, 'nobody')!r}")
    action = message.WhichOneof("action")
    kind = _KINDS.get(action or "")
    if kind is None:
        raise _Refused(f"{action or 'an empty action'!r} is not an order to a seed; allowed: {', '.join(_KINDS)}")
    numbers, reason, actor = dict(message.numbers), message.reason, Actor(role)
    if kind is CommandKind.GERMINATE:
        body = message.germinate
        return Command(
            kind,
            slot=body.slot,
            artifact_id=body.kernel_artifact_id,
            blueprint=body.blueprint,
            blend=_BLENDS.get(body.blend),
            objective=_OBJECTIVES.get(body.objective),
            schedule=_SCHEDULES.get(body.alpha_schedule),
            reason=reason,
            numbers=numbers,
            actor=actor,
        )
    seed = getattr(message, str(kind)).seed_id
    target = None
    if kind is CommandKind.ADVANCE and message.advance.target:
        try:
            target = Stage(message.advance.target)
        except ValueError as error:
            raise _Refused(f"{message.advance.target} is not a stage") from error
    return Command(kind, seed=seed, target=target, reason=reason, numbers=numbers, actor=actor)
