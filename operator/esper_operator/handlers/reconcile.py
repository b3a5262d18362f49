"""One resource brought nearer to its spec: read what is known of it, plan, do, and write down what came of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime

from esper_operator import metrics
from esper_operator.cluster import Cluster, Gone
from esper_operator.handlers.indices import Index, Name, ResourceSeen, one, resource_seen
from esper_operator.handlers.queue import Again
from esper_operator.library import KernelLibrary
from esper_operator.plan.actions import Action, Adjust, Begin, Delete, Note, Object, Plan, Register
from esper_operator.plan.observed import Refusal
from esper_operator.plan.status import invalid_status
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import TABLE, Reason
from esper_operator.refused import Refused
from leyline.resources import ManifestErrors

log = logging.getLogger(__name__)
Look = Callable[[Refusal | None], Plan]
"""Plans, given what was refused when the plan was tried."""


def now() -> datetime:
    """The present moment: the only clock of the reconcile."""
    return datetime.now(UTC)


class Reconciler(ABC):
    """Resources of one kind, found in ``index`` by namespace and name."""

    def __init__(
        self, index: Callable[[], Index], cluster: Cluster, library: KernelLibrary | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:  # fmt: skip
        self._index, self._cluster, self._library, self._clock = index, cluster, library, clock
        self._written: dict[Name, ResourceSeen] = {}

    @abstractmethod
    async def look(self, raw: Object, key: Name) -> Look:
        """Read the resource and everything there is of it, and say how to plan.

        Raises ``ManifestErrors`` for a spec that can't be read.
        """

    async def __call__(self, key: Name) -> float | None:
        """Bring one resource nearer to its spec; returns after how many seconds to look again.

        Raises ``Again`` and what ``Cluster`` raises for what may go better later.
        """
        raw = self._resource(key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            return None  # its objects go with it: they name it as their owner
        try:
            planned = await self.look(raw, key)
        except ManifestErrors as error:
            problems = "; ".join(str(each) for each in error.errors)
            await self._record(key, raw, Plan(status=invalid_status(raw, problems, self._clock())))
            return None
        made = planned(None)
        try:
            for action in made.actions:
                await self._do(action, key[0])
        except Gone as error:
            raise Again(str(error)) from error
        except Refused as error:
            await self._record(key, raw, planned(Refusal(error.what, error.message, error.reason)))
            raise Again(str(error)) from error
        await self._record(key, raw, made)
        return made.after

    async def _do(self, action: Action, namespace: str) -> None:
        if isinstance(action, Register | Begin):
            if self._library is None:
                raise Refused("library", "none", Reason.NO_LIBRARY)
            await self._library.execute(action)
            kind = "Library"
        else:
            await self._cluster.execute(action, namespace)
            kind = action.kind if isinstance(action, Adjust | Delete) else action.object["kind"]
        metrics.ACTIONS.labels(type(action).__name__, kind).inc()

    async def _record(self, key: Name, raw: Object, made: Plan) -> None:
        if made.status is None:
            return
        try:
            self._written[key] = resource_seen(await self._cluster.write_status(raw, made.status))
        except Gone:
            return  # it was deleted: nobody reads its status any more
        metrics.ACTIONS.labels("Status", raw["kind"]).inc()
        for note in made.notes:
            await self._tell(raw, note)

    async def _tell(self, raw: Object, note: Note) -> None:
        """Leave an Event; the status says it all, so one that can't be left is only logged."""
        kind = TABLE[note.reason].event
        try:
            await self._cluster.tell(raw, kind, note.reason.value, note.message, rfc3339(self._clock()))
        except (Gone, Refused) as error:
            log.warning("no Event about %s: %s", raw["metadata"]["name"], error)

    def _resource(self, key: Name) -> Object | None:
        """The newest version known of: the watch's, or the one that this replica wrote and no watch has told of yet."""
        told = one(self._index(), key)
        if told is None:
            self._written.pop(key, None)
            return None
        raw: Object = told.body()
        own = self._written.get(key)
        if own is not None:
            written = own.body()
            same = written["metadata"]["uid"] == raw["metadata"]["uid"]
            if same and int(own.version) > int(told.version):
                return written
            del self._written[key]
        return raw
