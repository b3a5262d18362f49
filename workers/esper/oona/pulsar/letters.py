"""Dead letters on the broker: a compacted topic beside each topic, a letter under its id, an empty message ends it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pulsar

from esper.oona.bus import DeadLetter, UnknownDeadLetter
from esper.oona.pulsar.link import Link
from esper.oona.pulsar.names import FOR, ID, dead
from esper.oona.pulsar.view import View, Writer
from leyline.topics import Topic
from leyline.v1.bus_pb2 import DeadLetter as Stored
from leyline.v1.bus_pb2 import Envelope

MAX_CAUSE = 4_000
"""Characters of a cause that are kept."""


class Letters:
    """The dead letters of every topic that keeps them. Thread-safe; all methods but the constructor ask the broker."""

    def __init__(self, link: Link, topics: Mapping[str, Topic], timeout: float) -> None:
        kept = [topic.name for topic in topics.values() if not topic.may_drop]
        self._former = {name: topics[name].former for name in kept}
        self._views = {name: View(link, dead(name), Stored, _letter) for name in kept}
        self._writers = {name: Writer(link, dead(name), Stored, timeout) for name in kept}
        self._sources = {name: Writer(link, name, Envelope, timeout) for name in kept}

    def bury(self, letter: DeadLetter) -> None:
        """Keep it; raises ``BusUnavailable``."""
        stored = Stored(
            topic=letter.topic,
            subscription=letter.subscription,
            message_id=letter.message_id,
            sealed=letter.data,
            key=letter.key,
            properties=dict(letter.properties),
            deliveries=letter.deliveries,
            cause=letter.cause[:MAX_CAUSE],
            died_at_ms=round(letter.died_at * 1000),
        )
        self._writers[letter.topic].put(letter.letter_id, stored)

    def list(self, topic: str | None = None, subscription: str | None = None) -> list[DeadLetter]:
        """Letters of one topic or subscription or of all, oldest first within a topic."""
        names = self._views if topic is None else [topic] if topic in self._views else []
        found = [letter for name in names for letter in self._views[name].now().values()]
        return [letter for letter in found if subscription in (None, letter.subscription)]

    def replay(self, letter_id: str) -> None:
        """Publish it for the subscription it died on, then forget it: killed in between, it is there once more.

        One that died on a subscription of an earlier version is for those that have taken its place.
        """
        letter = self._find(letter_id)
        properties = {**letter.properties, ID: letter.message_id}
        if letter.subscription not in self._former[letter.topic]:
            properties[FOR] = letter.subscription
        self._sources[letter.topic].put(letter.key, Envelope(sealed=letter.data), properties)
        self._writers[letter.topic].put(letter_id, Stored())

    def discard(self, letter_id: str) -> None:
        """Forget it; raises ``UnknownDeadLetter``."""
        self._writers[self._find(letter_id).topic].put(letter_id, Stored())

    def _find(self, letter_id: str) -> DeadLetter:
        for view in self._views.values():
            letter = view.get(letter_id)
            if letter is not None:
                return letter
        raise UnknownDeadLetter(f"dead letter {letter_id!r}: there is none with this id; list them to see what is left")


def letter_id(message_id: str, subscription: str) -> str:
    """The same message that dies twice on a subscription is one letter."""
    return f"{message_id}@{subscription}"


def _letter(stored: Stored, message: pulsar.Message) -> DeadLetter:
    return DeadLetter(
        letter_id=message.partition_key(),
        topic=stored.topic,
        subscription=stored.subscription,
        message_id=stored.message_id,
        data=stored.sealed,
        key=stored.key if stored.HasField("key") else None,
        properties=MappingProxyType(dict(stored.properties)),
        deliveries=stored.deliveries,
        cause=stored.cause,
        died_at=stored.died_at_ms / 1000,
    )
