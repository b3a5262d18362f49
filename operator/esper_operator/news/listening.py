"""What runs say of themselves (``system.events.epoch``), verified, by the name of the run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message as Payload

from esper.errors import EsperError
from esper.oona import Bus, Inbox, Message
from esper.oona.keyfiles import TrustedFolder
from esper_operator.plan.progress import Progress, following, progress_of, stages
from leyline.envelope import Opened
from leyline.messages import SystemStatePacket
from leyline.topics import EPOCHS, SubscriptionType

SUBSCRIPTION = "operator"
TURN_SECONDS = 1.0
AWAY_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass
class _Voice:
    """What one run said last, what of it is told and since when, and what tells the rest."""

    last: Progress
    told: Progress
    since: float
    later: asyncio.TimerHandle | None = None


class Listener:
    """Keeps the last word of each run, and tells it: at once when a seed moved, else every ``seconds`` at most.

    Args:
        open_bus: opens the bus; called again when it was lost.
        trusted: folder of the public keys that trainers sign with.
        heard: called in the event loop with the name of a run of which there is something new to tell.
        seconds: that lie between two words of a run that are told while no seed moves.
    """

    def __init__(
        self, open_bus: Callable[[], Bus], trusted: Path, heard: Callable[[str], None], seconds: float
    ) -> None:
        self._open, self._trusted, self._heard, self._seconds = open_bus, trusted, heard, seconds
        self._voices: dict[str, _Voice] = {}

    def of(self, run: str, *, ended: bool = False) -> Progress | None:
        """What is to be told of a run, its very last word if it ``ended``; None when this replica has heard nothing."""
        voice = self._voices.get(run)
        if voice is None:
            return None
        return voice.last if ended else voice.told

    def forget(self, run: str) -> None:
        """The run is no more."""
        voice = self._voices.pop(run, None)
        if voice is not None and voice.later is not None:
            voice.later.cancel()

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
        loop = asyncio.get_running_loop()
        voice = self._voices.get(run)
        if voice is None:
            self._voices[run] = _Voice(said, said, loop.time())
            self._heard(run)
            return
        moved = stages(voice.last) != stages(said)
        voice.last = following(voice.last, said)
        wait = voice.since + self._seconds - loop.time()
        if moved or wait <= 0:
            self._tell(run)
        elif voice.later is None:
            voice.later = loop.call_later(wait, self._tell, run)

    def _tell(self, run: str) -> None:
        voice = self._voices[run]
        if voice.later is not None:
            voice.later.cancel()
        voice.told, voice.since, voice.later = voice.last, asyncio.get_running_loop().time(), None
        self._heard(run)
