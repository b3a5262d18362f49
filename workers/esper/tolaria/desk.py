"""Where people's commands to a run arrive: verified at once, taken up at the next boundary between two epochs.

A command comes signed on ``control.kasmina.commands`` under the run's key. What is forged, replayed, stale, out of
sequence or for another run is refused before it is read, and counted. What holds waits here until the trainer takes it
up; the last sequence taken up from each sender is part of the run's state, so that a resumed run takes none twice.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message as Payload

from esper.errors import BusError
from esper.oona import Bus, BusClosed, Inbox, Message
from leyline.lifecycle import Actor
from leyline.messages import AdaptationCommand
from leyline.replay import ReplayGuard
from leyline.topics import COMMANDS, role_of
from leyline.v1 import control_pb2

if TYPE_CHECKING:
    from leyline.envelope import Opened
    from leyline.keys import KeyRing

_LOG = logging.getLogger(__name__)

SUBSCRIPTION = "trainer"
MOST = 256
"""Commands that may wait for a boundary; more are refused."""
KEPT = 16
"""Results kept to be shown."""
POLL_SECONDS = 1.0
RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Asked:
    """A person's command. ``seed`` is empty where it is about the run."""

    command_id: str
    producer: str
    sequence: int
    action: str
    seed: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """What became of a command; ``error`` is the class of what refused it."""

    asked: Asked
    applied: bool
    reason: str
    error: str
    epoch: int
    step: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, in one level."""
        return {**self.asked.to_dict(), **{name: value for name, value in asdict(self).items() if name != "asked"}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_dict`."""
        asked = Asked(**{name: data[name] for name in Asked.__dataclass_fields__})
        return cls(asked, **{name: data[name] for name in cls.__dataclass_fields__ if name != "asked"})


class RefusedCommand(BusError):
    """The envelope holds, but what is in it is no person's command to this run."""


ACTIONS = ("pause", "resume", "cancel", "cull", "checkpoint")


class Desk:
    """A run's commands. The bus's side has a thread of its own; the rest is the training thread's.

    Args:
        run: commands must be addressed to it.
        bus, ring: where they come from, and whose are believed.
    """

    def __init__(self, run: str, bus: Bus, ring: KeyRing) -> None:
        self.run = run
        self.results: deque[Result] = deque(maxlen=KEPT)
        """What became of the last ones."""
        self._bus, self._ring = bus, ring
        self._name = f"{SUBSCRIPTION}-{_plain(run)}"
        self._guard = ReplayGuard()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[Asked] = deque()
        self._sequences: dict[str, int] = {}
        self._inbox: Inbox | None = None
        self._problem = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="commands", daemon=True)

    def open(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """Listen no more; what waits is forgotten, and its senders get no answer."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(2 * POLL_SECONDS)

    def forget(self) -> None:
        """Close for good: the run is over, and nobody keeps its commands any more."""
        self.close()
        try:
            self._bus.unsubscribe(COMMANDS, self._name)
        except BusError as error:
            _LOG.info("commands: %s", error)  # the broker forgets it by itself, with what it keeps on the topic

    def take(self) -> list[Asked]:
        """The commands that came since the last call, in order."""
        with self._lock:
            taken, self._waiting = list(self._waiting), deque()
            for asked in taken:
                self._sequences[asked.producer] = asked.sequence
        return taken

    @property
    def waiting(self) -> int:
        """Commands that wait for a boundary."""
        with self._lock:
            return len(self._waiting)

    def wait(self, seconds: float) -> None:
        """Return when a command waits, at the latest after ``seconds``."""
        with self._changed:
            if not self._waiting and not self._closed.is_set():
                self._changed.wait(seconds)

    def refused(self) -> dict[str, int]:
        """Deliveries that failed verification, by the name of the error."""
        return dict(self._inbox.refused) if self._inbox is not None else {}

    @property
    def problem(self) -> str:
        """What keeps commands from arriving; empty when nothing is known to."""
        return self._problem

    def to_dict(self) -> dict[str, Any]:
        """What must survive a restart: the last sequence taken up from each sender, and the last results."""
        with self._lock:
            sequences = dict(sorted(self._sequences.items()))
        return {"sequences": sequences, "results": [result.to_dict() for result in self.results]}

    def load(self, data: Mapping[str, Any]) -> None:
        """The inverse of :meth:`to_dict`; commands seen in this process stay refused, whatever is loaded."""
        with self._lock:
            for producer, last in data["sequences"].items():
                self._sequences[producer] = max(last, self._sequences.get(producer, 0))
            known = {producer: last for topic, run, producer, last in self._guard.export_state()["sequences"]}
            merged = {name: max(last, known.get(name, 0)) for name, last in {**known, **self._sequences}.items()}
            self._guard.import_state(
                {
                    **self._guard.export_state(),
                    "sequences": [[COMMANDS, self.run, name, last] for name, last in sorted(merged.items())],
                }
            )
            self.results = deque((Result.from_dict(each) for each in data["results"]), maxlen=KEPT)

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with self._bus.subscribe(COMMANDS, self._name, key=self.run) as subscription:
                    self._inbox = Inbox(subscription, self._ring, self._guard)
                    self._problem = ""
                    while not self._closed.is_set():
                        self._inbox.take(self._admit, POLL_SECONDS)
            except BusClosed:
                return
            except BusError as error:
                if str(error) != self._problem:
                    _LOG.warning("commands: %s; trying again", error)
                self._problem = str(error)
                self._closed.wait(RETRY_SECONDS)

    def _admit(self, payload: Payload, opened: Opened, message: Message) -> None:
        if not isinstance(payload, AdaptationCommand):
            raise RefusedCommand(f"{opened.type} is no command")
        if not payload.run == opened.run == self.run:
            raise RefusedCommand(f"it is for run {payload.run!r}, sealed for {opened.run!r}; this is {self.run!r}")
        if payload.actor != control_pb2.ACTOR_PERSON or role_of(opened.producer) != Actor.PERSON:
            raise RefusedCommand("only people's commands come by the bus; the controller is in this process")
        action = payload.WhichOneof("action") or ""
        if action not in ACTIONS:
            raise RefusedCommand(f"{action or 'an empty action'!r} is not for people; allowed: {', '.join(ACTIONS)}")
        seed = getattr(getattr(payload, action), "seed_id", "")
        asked = Asked(payload.command_id, opened.producer, opened.sequence, action, seed, payload.reason)
        with self._changed:
            if len(self._waiting) >= MOST:
                raise RefusedCommand(f"{MOST} commands wait for the next boundary; send it again later")
            self._waiting.append(asked)
            self._changed.notify_all()


def _plain(run: str) -> str:
    """A run's name as part of a subscription's."""
    return "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in run.lower())[:100]
