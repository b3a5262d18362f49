"""Sending a person's command to a run, and waiting for what became of it."""

from __future__ import annotations

import getpass
import secrets
import time
from dataclasses import dataclass

from google.protobuf.message import Message as Payload

from esper.errors import BadInput, RunFailed
from esper.oona import Bus, Inbox, Message
from leyline.envelope import FRESHNESS, Opened, seal
from leyline.keys import KeyRing, Signer
from leyline.lifecycle import Actor
from leyline.messages import AdaptationCommand, CommandResult, encode, type_of
from leyline.topics import COMMANDS, EPOCHS, SubscriptionType
from leyline.v1 import control_pb2

ABOUT_SEEDS = ("cancel", "cull")
ABOUT_RUNS = ("pause", "resume", "checkpoint")


class NoAnswer(RunFailed):
    """A command was sent and nobody said what became of it."""


class CommandRefused(RunFailed):
    """The run has refused a command; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What became of a command."""

    applied: bool
    reason: str
    error: str
    epoch: int
    step: int


def command(run: str, action: str, seed: str = "", reason: str = "") -> AdaptationCommand:
    """A person's command.

    Raises:
        BadInput: there is no such action, or a seed is missing, or named where the command is about the run.
    """
    if action not in (*ABOUT_SEEDS, *ABOUT_RUNS):
        raise BadInput(f"{action!r} is no command; there are {', '.join((*ABOUT_RUNS, *ABOUT_SEEDS))}")
    if (action in ABOUT_SEEDS) != bool(seed):
        raise BadInput(
            f"{action}: name the seed, such as blocks.0/0"
            if not seed
            else f"{action} is about the run; leave {seed} out"
        )
    made = AdaptationCommand(command_id=secrets.token_hex(8), run=run, actor=control_pb2.ACTOR_PERSON, reason=reason)
    body = getattr(made, action)
    body.SetInParent()
    if seed:
        body.seed_id = seed
    return made


def order(
    bus: Bus, signer: Signer, ring: KeyRing, asked: AdaptationCommand, timeout: float, *, name: str = ""
) -> Answer:
    """Send a command and wait up to ``timeout`` seconds for its answer, which comes after the next boundary's commit.

    Raises:
        NoAnswer: none came; the run may still take the command up within its next epochs.
        BusUnavailable: the broker can't be reached.
    """
    producer = f"{Actor.PERSON}/{name or getpass.getuser()}"
    heard: list[CommandResult] = []

    def listen(payload: Payload, opened: Opened, message: Message) -> None:
        if isinstance(payload, CommandResult) and payload.command_id == asked.command_id and opened.run == asked.run:
            heard.append(payload)

    subscription = f"ctl-{asked.command_id}"
    began = time.monotonic()
    # Before it is sent, so that no answer is missed.
    try:
        with bus.subscribe(EPOCHS, subscription, SubscriptionType.EXCLUSIVE, key=asked.run) as answers:
            inbox = Inbox(answers, ring)
            # Sequences rise over all of a person's processes, as long as the clock does.
            data = seal(
                encode(asked), type_of(asked), COMMANDS, producer, time.time_ns(), signer, time.time(), FRESHNESS,
                run=asked.run,
            )  # fmt: skip
            bus.publish(COMMANDS, data, key=asked.run)
            bus.flush(min(10.0, timeout))
            while not heard and (left := began + timeout - time.monotonic()) > 0:
                inbox.take(listen, min(1.0, left))
    finally:
        bus.unsubscribe(EPOCHS, subscription)
    if not heard:
        raise NoAnswer(
            f"run {asked.run}: no answer to {asked.WhichOneof('action')} within {timeout:g} s. Commands are taken up "
            "at the end of an epoch; is the run training, and does it trust your key? `esper ctl RUN status` says"
        )
    found = heard[0]
    return Answer(found.applied, found.reason, found.error, found.epoch, found.step)
