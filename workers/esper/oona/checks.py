"""What every adapter refuses in the same words, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

from esper.errors import BusError
from esper.oona.bus import MAX_MESSAGE_BYTES, UnknownTopic
from leyline.envelope import Draft
from leyline.topics import Topic

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


def find_topic(topics: Mapping[str, Topic], name: str) -> Topic:
    """The topic of this name; raises ``UnknownTopic``."""
    topic = topics.get(name)
    if topic is None:
        known = ", ".join(sorted(topics))
        raise UnknownTopic(f"topic {name!r} is not in the table of topics; known: {known}")
    return topic


def require_name(name: str) -> None:
    """Raise ``BusError`` unless ``name`` may name a subscription."""
    if _NAME.fullmatch(name) is None:
        raise BusError(f"subscription name {name!r}: lower-case letters, digits, '.', '_' and '-' only, at most 128")


def require_size(topic: str, data: bytes | Draft) -> None:
    """Raise ``BusError`` for a payload no broker would take; a draft is within a smaller limit already."""
    if isinstance(data, Draft):
        return
    if len(data) > MAX_MESSAGE_BYTES:
        raise BusError(
            f"{topic}: a message of {len(data)} bytes is above the limit of {MAX_MESSAGE_BYTES}; "
            "put the content in the library and send its digest"
        )


def require_key(topic: Topic, key: str | None) -> None:
    """Raise ``BusError`` for a message without a key where only the last of each key is kept."""
    if topic.compacted and not key:
        raise BusError(f"{topic.name}: is compacted, so every message needs a key (the {topic.key})")


def require_compacted(topic: Topic) -> None:
    """Raise ``BusError`` for a topic that does not keep the last message of each key."""
    if not topic.compacted:
        raise BusError(f"{topic.name}: is not compacted; only a subscription can read it")
