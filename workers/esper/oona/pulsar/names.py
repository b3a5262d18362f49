"""Names the adapter gives: topics beside a topic, and properties beside the caller's own."""

from __future__ import annotations

from leyline.topics import Topic, TopicKind

OURS = "esper-"
"""Properties that begin like this are the adapter's."""
ID = f"{OURS}id"
"""The message id, the same however often a message is sent or delivered."""
FOR = f"{OURS}for"
"""The one subscription a replayed message is meant for."""

LARGEST_BUNDLE = 64
"""Messages that are stored as one, at most."""


def dead(topic: str) -> str:
    """Where the dead letters of a topic are."""
    return f"{topic}-dead"


def deliveries(topic: str) -> str:
    """Where the deliveries of a topic's messages are counted."""
    return f"{topic}-deliveries"


def bundles(topic: Topic) -> bool:
    """Whether messages may be stored several at a time.

    Work is handed out and counted one by one, commands are few, and a compaction keeps whole stored messages.
    """
    return topic.kind in (TopicKind.REPORT, TopicKind.TELEMETRY) and not topic.compacted


def counts_deliveries(topic: Topic) -> bool:
    """Whether deliveries are counted on the broker: work may kill whoever does it, so memory would not do."""
    return topic.kind is TopicKind.WORK
