"""The kernel library through its service, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from esper.errors import LibraryError
from esper.urza import AccessDenied, LibraryUnavailable, UnknownArtifact, UnknownBlueprint
from esper.urza.client import RemoteLibrary, TransportSettings, token_from_file
from esper_operator.plan.actions import LibraryAction, Register
from esper_operator.plan.blueprint import Entry
from esper_operator.plan.kernel_artifact import Known
from esper_operator.plan.pools import UNFINISHED, Waiting
from esper_operator.reasons import Reason
from esper_operator.refused import Refused

PATIENCE_SECONDS = 5.0
"""How long one call is repeated while the service is away; the resource is looked at again anyway."""
CALLS = 4

T = TypeVar("T")


class KernelLibrary:
    """Reads and entries of plans.

    Raises, from every method:
        Refused: the library is away, denies access or does not take the entry; the reason says which.
    """

    def __init__(self, url: str, token_file: Path) -> None:
        self._library = RemoteLibrary(url, token_from_file(token_file), TransportSettings(patience=PATIENCE_SECONDS))
        self._turns = asyncio.Semaphore(CALLS)

    async def blueprint(self, name: str) -> Entry | None:
        """What a name means now; None for a name nobody registered."""
        try:
            record = await self._call(name, lambda: self._library.blueprint(name))
        except UnknownBlueprint:
            return None
        return Entry(record.digest, record.risk, record.approved)

    async def kernel(self, artifact_id: str) -> Known | None:
        """What is known of an artifact; None when it was never asked for."""
        try:
            record = await self._call(artifact_id, lambda: self._library.record(artifact_id))
        except UnknownArtifact:
            return None
        report = record.report
        return Known(
            record.state, record.hardware, record.ratio, report.get("ratio_low"), report.get("ratio_high"),
            record.tags, record.risk, record.cause, str(report.get("manifest", "")),
        )  # fmt: skip

    async def waiting(self) -> list[Waiting]:
        """How many artifacts the pools have before them."""
        counts = await self._call("counts", lambda: self._library.counts(sorted(UNFINISHED)))
        return [Waiting(each.state, each.strategy, each.hardware, each.artifacts) for each in counts]

    async def execute(self, action: LibraryAction) -> None:
        """Do one action of a plan; doing it twice changes nothing."""
        if isinstance(action, Register):
            await self._call(
                action.name,
                lambda: self._library.register_blueprint(action.name, action.ir, action.risk, action.approved),
            )
        else:
            await self._call(
                action.artifact_id,
                lambda: self._library.begin(
                    action.artifact_id, action.blueprint, action.interface, action.strategy, action.hardware,
                    action.toolchain,
                ),
            )  # fmt: skip

    async def _call(self, what: str, call: Callable[[], T]) -> T:
        async with self._turns:
            try:
                return await asyncio.to_thread(call)
            except (UnknownBlueprint, UnknownArtifact):
                raise
            except LibraryUnavailable as error:
                raise Refused(what, str(error), Reason.LIBRARY_AWAY) from error
            except AccessDenied as error:
                raise Refused(what, str(error), Reason.LIBRARY_DENIES) from error
            except LibraryError as error:
                raise Refused(what, str(error), Reason.LIBRARY_REFUSES) from error
