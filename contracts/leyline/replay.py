"""What a consumer remembers so that no message is acted on twice."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

from leyline.errors import EnvelopeError, OutOfSequence, ReplayedEnvelope, ReplayGuardFull, StaleEnvelope

Stream = tuple[str, str, str]
_SCHEMA = 1


@dataclass
class _Entry:
    message_id: str | None
    until: float
    done: bool = False


class ReplayGuard:
    """Nonces seen, and the last sequence per stream (topic, run, producer).

    A nonce is forgotten only after its message could no longer be opened anyway; when ``capacity`` nonces are all still
    fresh, new messages are refused rather than old ones forgotten. Streams are bounded the same way. Not thread-safe:
    one guard per subscription.
    """

    def __init__(self, capacity: int = 65_536, max_streams: int = 16_384) -> None:
        if capacity < 1 or max_streams < 1:
            raise EnvelopeError("a replay guard needs room for at least one nonce and one stream")
        self._capacity = capacity
        self._max_streams = max_streams
        self._seen: dict[bytes, _Entry] = {}
        self._expiry: list[tuple[float, bytes]] = []
        self._last: dict[Stream, int] = {}
        # Nothing that ran out before this is admitted, even if the clock is set back: its nonce may be forgotten.
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._seen)

    def admit(
        self, *, nonce: bytes, message_id: str | None, stream: Stream, sequence: int | None, until: float, now: float
    ) -> bool:
        """Remember a verified message; True when it is a redelivery of one not yet done.

        ``sequence`` is None on topics without order. ``until`` is when the message expires.
        Raises ReplayedEnvelope, OutOfSequence, StaleEnvelope, or ReplayGuardFull; then nothing changed.
        """
        entry = self._seen.get(nonce)
        if entry is not None:
            if entry.done:
                raise ReplayedEnvelope(
                    "this message was already handled",
                    handled=message_id is not None and entry.message_id == message_id,
                )
            if message_id is None or entry.message_id != message_id:
                raise ReplayedEnvelope(f"first seen as message {entry.message_id}, now again as {message_id}")
            return True
        if until <= self._floor:
            raise StaleEnvelope("ran out before messages already forgotten; was the clock set back?")
        if sequence is not None:
            last = self._last.get(stream)
            if last is not None and sequence <= last:
                raise OutOfSequence(f"{stream[2]} of run {stream[1]!r} sent {sequence} after {last} on {stream[0]}")
            if last is None and len(self._last) >= self._max_streams:
                raise ReplayGuardFull(f"{self._max_streams} streams are known; forget finished runs with forget_run")
        self._evict(now)
        if len(self._seen) >= self._capacity:
            raise ReplayGuardFull(
                f"{self._capacity} messages are still fresh; raise the capacity or slow the producers"
            )
        self._seen[nonce] = _Entry(message_id, until)
        heapq.heappush(self._expiry, (until, nonce))
        if sequence is not None:
            self._last[stream] = sequence
        return False

    def done(self, nonce: bytes) -> None:
        """The message was handled; from now on even its redelivery is refused. Unknown nonces are ignored."""
        entry = self._seen.get(nonce)
        if entry is not None:
            entry.done = True

    def last_sequence(self, topic: str, run: str, producer: str) -> int | None:
        """The highest sequence admitted from a stream, or None."""
        return self._last.get((topic, run, producer))

    def forget_run(self, run: str) -> None:
        """Drop the sequences of a finished run; its key must have left the keyring first."""
        self._last = {stream: last for stream, last in self._last.items() if stream[1] != run}

    def export_state(self) -> dict[str, Any]:
        """JSON-ready state to keep with a checkpoint."""
        return {
            "schema": _SCHEMA,
            "floor": self._floor,
            "sequences": [[*stream, last] for stream, last in sorted(self._last.items())],
            "nonces": [
                [nonce.hex(), entry.message_id, entry.until, entry.done] for nonce, entry in sorted(self._seen.items())
            ],
        }

    def import_state(self, state: dict[str, Any]) -> None:
        """Replace what is remembered by an exported state; raises EnvelopeError, changing nothing, when damaged."""
        try:
            if state["schema"] != _SCHEMA:
                raise EnvelopeError(f"replay state of schema {state['schema']!r}; this version reads {_SCHEMA}")
            floor = float(state["floor"])
            last = {(str(t), str(r), str(p)): int(s) for t, r, p, s in state["sequences"]}
            seen = {
                bytes.fromhex(nonce): _Entry(None if message_id is None else str(message_id), float(until), bool(done))
                for nonce, message_id, until, done in state["nonces"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise EnvelopeError(f"damaged replay state ({error}); resume from an older checkpoint") from error
        if len(seen) > self._capacity or len(last) > self._max_streams:
            raise EnvelopeError("the replay state does not fit this guard; make the guard larger")
        self._floor, self._last, self._seen = floor, last, seen
        self._expiry = [(entry.until, nonce) for nonce, entry in seen.items()]
        heapq.heapify(self._expiry)

    def _evict(self, now: float) -> None:
        while self._expiry and self._expiry[0][0] < now:
            until, nonce = heapq.heappop(self._expiry)
            self._seen.pop(nonce, None)
            self._floor = max(self._floor, until)
