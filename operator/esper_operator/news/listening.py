"""What runs say of themselves (``system.events.epoch``), verified, by the name of the run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message as Payload

from esper.errors import EsperError
from esper.oona import Bus, Inbox, Message
from esper.oona.keyfiles import TrustedFolder
from esper_operator.plan.progress import Progress, progress_of, stages
from leyline.envelope import Opened
from leyline.messages import SystemStatePacket
from leyline.topics import EPOCHS, SubscriptionType

SUBSCRIPTION = "operator"
TURN_SECONDS = 1.0
AWAY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Listener:
    """Keeps the last word of each run.

    Args:
        open_bus: opens the bus; called again when it was lost.
        trusted: folder of the public keys that trainers sign with.
        heard: called in the event loop with the name of a run that said something new, and whether a seed of it is at
            another stage than before.
    """

    def __init__(self, open_bus: Callable[[], Bus], trusted: Path, heard: Callable[[str, bool], None]) -> None:
        self._open, self._trusted, self._heard = open_bus, trusted, heard
        self._last: dict[str, Progress] = {}

    def of(self, run: str) -> Progress | None:
        """What a run said last; None when it has said nothing since this replica leads."""
        return self._last.get(run)

    def forget(self, run: str) -> None:
        """The run is no more."""
        self._last.pop(run, None)

    async def serve(self) -> None:
        """Listen until cancelled; a bus that is away is tried again."""
        stop = threading.Event()
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._listen, loop, stop)
        finally:
            stop.set()

    def _listen(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                bus = self._open()
                try:
                    self._take(bus, loop, stop)
                finally:
                    bus.close()
            except EsperError as error:
                log.warning("the bus is away, runs' progress is not followed: %s", error)
                stop.wait(AWAY_SECONDS)

    def _take(self, bus: Bus, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        def handle(payload: Payload, opened: Opened, _: Message) -> None:
            if isinstance(payload, SystemStatePacket) and payload.run == opened.run:
                loop.call_soon_threadsafe(self._hear, payload.run, progress_of(payload))

        with bus.subscribe(EPOCHS, SUBSCRIPTION, SubscriptionType.FAILOVER) as subscription:
            inbox = Inbox(subscription, TrustedFolder(self._trusted))
            while not stop.is_set():
                inbox.take(handle, TURN_SECONDS)

    def _hear(self, run: str, said: Progress) -> None:
        before = self._last.get(run)
        self._last[run] = said
        self._heard(run, before is None or stages(before) != stages(said))
