"""People who command runs, and others who pretend to: sealed commands for tests."""

from __future__ import annotations

import itertools
import time
from typing import Any

from esper.oona import Bus, Inbox
from esper.tolaria.desk import Desk
from esper.tolaria.herald import Herald
from esper.tolaria.trainer import Trainer
from esper.weatherlight.ordering import command
from leyline.envelope import FRESHNESS, seal
from leyline.keys import KeyRing, Signer
from leyline.messages import AdaptationCommand, CommandResult, FieldReport, SystemStatePacket, encode, type_of
from leyline.topics import COMMANDS, EPOCHS, FIELD_REPORTS, PREFETCH_REQUEST, SEED_HEALTH

RUN = "test"


class Keys:
    """A trainer's and a person's key, and a ring that trusts both."""

    def __init__(self) -> None:
        self.trainer, self.person, self.stranger = (Signer.generate(name) for name in ("trainer", "person", "stranger"))
        self._trust()

    def _trust(self) -> None:
        self.ring = KeyRing()
        self.ring.add(
            self.trainer, producers=["tolaria", "tamiyo", "kasmina", "weatherlight"],
            topics=[COMMANDS, EPOCHS, FIELD_REPORTS, SEED_HEALTH, PREFETCH_REQUEST],
        )  # fmt: skip
        self.ring.add(self.person, producers=["person"], topics=[COMMANDS])

    def __getstate__(self) -> dict[str, Any]:
        """For a child: the keys; a ring that has seen nothing yet is made of them there."""
        return {name: value for name, value in vars(self).items() if name != "ring"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._trust()

    def attach(self, trainer: Trainer, bus: Bus, instance: str = "one") -> Desk:
        """Give a trainer a desk and a herald."""
        assert trainer.commits is not None
        journal = trainer.commits.store.journal
        trainer.outside.herald = Herald(bus, self.trainer, RUN, instance, journal.entries)
        trainer.outside.desk = Desk(RUN, bus, self.ring)
        return trainer.outside.desk


class Person:
    """Seals and sends commands."""

    def __init__(self, bus: Bus, keys: Keys, name: str = "person/ada") -> None:
        self.bus, self.keys, self.name = bus, keys, name
        self._numbers = itertools.count(1)

    def sealed(self, asked: AdaptationCommand, **change: Any) -> bytes:
        """The envelope; ``change``: signer, now, run, sequence, producer."""
        given: dict[str, Any] = {
            "signer": self.keys.person, "now": time.time(), "run": RUN, "sequence": next(self._numbers),
            "producer": self.name,
        } | change  # fmt: skip
        return seal(encode(asked), type_of(asked), COMMANDS, ttl=FRESHNESS, **given)

    def say(self, action: str, seed: str = "", **change: Any) -> AdaptationCommand:
        """Send a command; returns it."""
        asked = command(RUN, action, seed, "because")
        self.bus.publish(COMMANDS, self.sealed(asked, **change), key=RUN)
        return asked


class Audience:
    """Hears what a run tells."""

    def __init__(self, bus: Bus, keys: Keys, name: str = "audience") -> None:
        self._inboxes = {
            topic: Inbox(bus.subscribe(topic, name if topic != FIELD_REPORTS else "urza"), keys.ring)
            for topic in (EPOCHS, FIELD_REPORTS)
        }
        self.heard: dict[str, list[tuple[str, Any]]] = {topic: [] for topic in self._inboxes}

    def listen(self, seconds: float = 0.5) -> None:
        """Take what comes until nothing has for so long."""
        for topic, inbox in self._inboxes.items():
            while inbox.take(
                lambda payload, opened, message: self.heard[message.topic].append((message.message_id, payload)),
                seconds,
            ):
                continue
            assert topic in self.heard

    @property
    def epochs(self) -> list[int]:
        """Of the packets, in the order they came."""
        return [payload.epoch for _, payload in self.heard[EPOCHS] if isinstance(payload, SystemStatePacket)]

    @property
    def answers(self) -> dict[str, CommandResult]:
        """By command."""
        return {payload.command_id: payload for _, payload in self.heard[EPOCHS] if isinstance(payload, CommandResult)}

    @property
    def reports(self) -> list[FieldReport]:
        """How seeds did."""
        return [payload for _, payload in self.heard[FIELD_REPORTS]]

    @property
    def ids(self) -> list[str]:
        """Of all messages."""
        return [message_id for heard in self.heard.values() for message_id, _ in heard]
