"""What every thread that consumes a topic does: take a message, handle it, and tell whose fault a failure is.

A message's own fault (it is malformed, or its work crashed) makes it come again and ends as a dead letter. A fault of
what is around it (the library is away, the disk is gone) makes it come again too, and fails the thread besides, which
its supervisor starts again more and more slowly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from google.protobuf.message import Message as Payload

from esper.errors import EsperError, LibraryError
from esper.oona import Bus, Message, Outcome
from esper.weatherlight.patient import AWAY
from esper.weatherlight.post import Post
from leyline.envelope import Opened
from leyline.errors import LeylineError

POLL_SECONDS = 0.5


class Again(EsperError):
    """A message's work failed in a way that may be the machine's fault: it is to come again."""


class Stopped(EsperError):
    """Told to stop before the work was done: the message is to come again."""


class Tally(Protocol):
    """Told what is done, for those who count it."""

    def outcome(self, topic: str, outcome: Outcome) -> None:
        """What became of a delivery."""

    def built(self, strategy: str, seconds: float) -> None:
        """A build has ended."""

    def verdict(self, verdict: str) -> None:
        """An artifact got this verdict."""


class Untold:
    """A ``Tally`` that counts nothing."""

    def outcome(self, topic: str, outcome: Outcome) -> None:
        """See ``Tally``."""

    def built(self, strategy: str, seconds: float) -> None:
        """See ``Tally``."""

    def verdict(self, verdict: str) -> None:
        """See ``Tally``."""


class Activity:
    """Since when nothing was done. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy, self._since = 0, time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nobody has been at work; 0 while somebody is."""
        with self._lock:
            return 0.0 if self._busy else time.monotonic() - self._since

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While something is done."""
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy, self._since = self._busy - 1, time.monotonic()


Around = Callable[[Message], AbstractContextManager[object]]
"""Entered while a message is handled, such as a span of a trace."""


class Consumer:
    """Consumes one topic. ``run`` is what a supervised thread does; several may.

    Args:
        handle: acts on a payload; told of the message, and when to stop.
        key: takes the messages of this key only.
        hardware: takes the messages of artifacts for this target only, as far as their keys tell.
        tally, activity, around: told what is done.
    """

    def __init__(
        self,
        bus: Bus,
        post: Post,
        topic: str,
        name: str,
        handle: Callable[[Payload, Message, threading.Event], None],
        *,
        key: str | None = None,
        hardware: str | None = None,
        tally: Tally | None = None,
        activity: Activity | None = None,
        around: Around | None = None,
    ) -> None:
        self._key, self._hardware = key, hardware
        self._bus, self._post, self._topic, self._name, self._do = bus, post, topic, name, handle
        self._tally, self._activity = tally or Untold(), activity or Activity()
        self._around: Around = around or (lambda _: nullcontext())

    def run(self, stop: threading.Event, idle: Callable[[], object] = lambda: None) -> None:
        """Consume until ``stop`` is set; what is open then goes back. ``idle`` is called between two messages."""
        with self._bus.subscribe(self._topic, self._name, key=self._key, hardware=self._hardware) as subscription:
            inbox = self._post.inbox(subscription)
            while not stop.is_set():
                faults: list[Exception] = []

                def handle(payload: Payload, _: Opened, message: Message, faults: list[Exception] = faults) -> None:
                    with self._activity.at_work(), self._around(message):
                        try:
                            self._do(payload, message, stop)
                        except Exception as error:
                            if not _of_the_message(error):
                                faults.append(error)
                            raise

                outcome = inbox.take(handle, POLL_SECONDS)
                if outcome is not None:
                    self._tally.outcome(self._topic, outcome)
                if faults and not stop.is_set():
                    raise faults[0]
                idle()


def _of_the_message(error: Exception) -> bool:
    """Whether a message itself is to blame for an error."""
    if isinstance(error, AWAY):
        return False
    return isinstance(error, Again | Stopped | LibraryError | LeylineError | ValueError)
