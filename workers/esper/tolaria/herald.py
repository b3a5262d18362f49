"""What a run tells others: published after the commit it belongs to, and again by a resume if nobody confirmed it.

News of a commit are part of its journal entry. A thread publishes them in order, waits until the bus has them, and
notes the number of the commit they belong to; the next commit keeps that number. A resumed run publishes what comes
after it once more, under the same message ids. Nothing here ever keeps a training step waiting: what does not fit into
memory is read from the journal when the bus is back.
"""

from __future__ import annotations

import base64
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esper.errors import BusError, CheckpointMismatch
from esper.oona import Bus, BusFull
from leyline.envelope import draft
from leyline.errors import LeylineError
from leyline.messages import encode, topic_of, type_of
from leyline.topics import TOPICS

if TYPE_CHECKING:
    from google.protobuf.message import Message as Payload

    from leyline.keys import Signer

_LOG = logging.getLogger(__name__)

KEPT = 512
"""Commits whose news may wait in memory; of more the journal is read."""
GROUP = 32
"""Commits whose news are published before the bus is asked whether it has them."""
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
FLUSH_SECONDS = 1.0


@dataclass(frozen=True)
class News:
    """One message: who says it, under which key and id."""

    message_id: str
    role: str
    key: str
    payload: Payload

    @property
    def durable(self) -> bool:
        """Whether it must not be lost, and so is part of the journal."""
        return not topic_of(self.payload).may_drop

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return {
            "id": self.message_id, "role": self.role, "key": self.key, "topic": topic_of(self.payload).name,
            "type": type_of(self.payload), "payload": base64.b64encode(encode(self.payload)).decode(),
        }  # fmt: skip


class Herald:
    """Publishes one run's news. Thread-safe.

    Args:
        bus: where to.
        signer: signs for every role the run speaks in.
        run: its name.
        instance: tells this process from an earlier one of the same run; each counts its messages anew.
        journal: the entries of the run's journal, for what does not fit into memory.
    """

    def __init__(
        self, bus: Bus, signer: Signer, run: str, instance: str, journal: Callable[[], Iterable[Mapping[str, Any]]]
    ) -> None:
        self._bus, self._signer, self._run, self._instance, self._journal = bus, signer, run, instance, journal
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, list[dict[str, str]]]] = deque()
        self._released = self._confirmed = 0
        self._skipped = False
        self._problem = ""
        self._closed = False
        self._numbers: dict[str, itertools.count[int]] = {}
        self._thread = threading.Thread(target=self._run_thread, name="herald", daemon=True)

    def open(self, confirmed: int, committed: int) -> None:
        """Begin; what commits after ``confirmed`` said, up to ``committed``, is published again."""
        self._confirmed, self._released = confirmed, committed
        self._skipped = committed > confirmed
        self._thread.start()

    def release(self, number: int, news: Sequence[dict[str, str]], fleeting: Iterable[News] = ()) -> None:
        """Publish the news of a commit, which is durable now; never waits. ``fleeting`` may be lost."""
        for each in fleeting:
            self._try(each)
        with self._changed:
            self._released = max(self._released, number)
            if self._skipped or len(self._waiting) >= KEPT:
                self._skipped = True
            else:
                self._waiting.append((number, list(news)))
            self._changed.notify_all()

    @property
    def confirmed(self) -> int:
        """Number of the last commit whose news the bus has, with those of all before."""
        with self._changed:
            return self._confirmed

    @property
    def behind(self) -> int:
        """Commits whose news the bus does not have yet."""
        with self._changed:
            return self._released - self._confirmed

    @property
    def problem(self) -> str:
        """What keeps news from being published; empty when nothing is known to."""
        with self._changed:
            return self._problem

    def finish(self, seconds: float) -> int:
        """Wait until the bus has all news; returns how many commits' it does not have after ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._released > self._confirmed and time.monotonic() < deadline:
                self._changed.wait(0.1)
            return self._released - self._confirmed

    def close(self) -> None:
        """End; what was not published is in the journal."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(2 * FLUSH_SECONDS)

    def _run_thread(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._skipped)
                if self._closed:
                    return
            try:
                self._catch_up()
                wait = FIRST_WAIT
            except (BusError, CheckpointMismatch) as error:
                with self._changed:
                    if not self._problem:
                        _LOG.warning("news: %s; trying again", error)
                    self._problem = str(error)
                    self._changed.wait_for(lambda: self._closed, wait)
                wait = min(2 * wait, LONGEST_WAIT)

    def _catch_up(self) -> None:
        """Publish what waits; raises ``BusError`` when the bus does not take it now."""
        with self._changed:
            unread = self._skipped and not self._waiting
            after = self._confirmed
        if unread:
            # Nothing is queued beside it meanwhile, so that the order stays.
            left = [entry for entry in self._journal() if entry["commit"] > after][:KEPT]
            with self._changed:
                self._waiting.extend((entry["commit"], entry.get("news", [])) for entry in left)
                self._skipped = bool(left) and left[-1]["commit"] < self._released
                if not left:
                    self._confirmed = self._released
        with self._changed:
            batch = list(self._waiting)[:GROUP]
        for _, news in batch:
            for each in news:
                self._publish_patiently(each)
        while self._bus.flush(FLUSH_SECONDS):
            with self._changed:
                self._problem = self._problem or "the broker does not answer"
                if self._closed:
                    return
        with self._changed:
            for number, _ in batch:
                self._waiting.popleft()
                self._confirmed = max(self._confirmed, number)
            self._problem = ""
            self._changed.notify_all()

    def _publish_patiently(self, news: Mapping[str, str]) -> None:
        """Publish, making room first where there is none; raises ``BusFull`` when the bus makes none."""
        while True:
            try:
                return self._publish(news)
            except BusFull:
                if self._bus.flush(FLUSH_SECONDS):
                    raise
            except LeylineError as error:
                # It would be refused for ever, and everything behind it would wait.
                return _LOG.error("news %s can't be sent: %s", news["id"], error)

    def _try(self, news: News) -> None:
        try:
            self._publish(news.to_dict())
        except BusError as error:
            _LOG.debug("telemetry: %s", error)  # it may be lost

    def _publish(self, news: Mapping[str, str]) -> None:
        topic, producer = TOPICS[news["topic"]], f"{news['role']}/{self._instance}"
        numbers = self._numbers.setdefault(producer, itertools.count(1))
        message = draft(
            base64.b64decode(news["payload"]), news["type"], topic.name, producer, next(numbers), self._signer,
            time.time(), topic.retention, run=self._run,
        )  # fmt: skip
        self._bus.publish(topic.name, message, key=news["key"], message_id=news["id"] or None)
