"""One resource brought nearer to its spec: read what is known of it, plan, do, and write down what came of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from esper_operator import metrics
from esper_operator.cluster import Cluster, Gone, Refused
from esper_operator.handlers.indices import Indices, Name, one
from esper_operator.handlers.queue import Again
from esper_operator.plan.actions import Action, Adjust, Delete, Note, Object, Plan
from esper_operator.plan.observed import Refusal
from esper_operator.plan.reading import read_run
from esper_operator.plan.settings import PodSettings
from esper_operator.plan.status import invalid_status, rfc3339
from esper_operator.plan.training_run import plan
from esper_operator.reasons import TABLE
from leyline.resources import ManifestErrors

log = logging.getLogger(__name__)


def now() -> datetime:
    """The present moment: the only clock of the reconcile."""
    return datetime.now(UTC)


@dataclass
class RunReconciler:
    """Training runs of one cluster."""

    indices: Indices
    cluster: Cluster
    settings: PodSettings
    clock: Callable[[], datetime] = now

    def __post_init__(self) -> None:
        self._written: dict[Name, Object] = {}

    async def __call__(self, key: Name) -> float | None:
        """Look at one run; returns after how many seconds to look again.

        Raises ``Again`` and what ``Cluster`` raises for what may go better later.
        """
        raw = self._resource(key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            return None  # its objects go with it: they name it as their owner
        try:
            run = read_run(raw)
        except ManifestErrors as error:
            problems = "; ".join(str(each) for each in error.errors)
            await self._record(key, raw, Plan(status=invalid_status(raw, problems, self.clock())))
            return None
        seen = self.indices.observed(key, run.metadata.uid or "")
        made = plan(run, seen, self.settings, self.clock())
        try:
            for action in made.actions:
                await self._do(action, key[0])
        except Gone as error:
            raise Again(str(error)) from error
        except Refused as error:
            refusal = Refusal(error.what, error.message, error.name_taken)
            made = plan(run, replace(seen, refusal=refusal), self.settings, self.clock())
            await self._record(key, raw, made)
            raise Again(str(error)) from error
        await self._record(key, raw, made)
        return made.after

    async def _do(self, action: Action, namespace: str) -> None:
        await self.cluster.execute(action, namespace)
        kind = action.kind if isinstance(action, Adjust | Delete) else action.object["kind"]
        metrics.ACTIONS.labels(type(action).__name__, kind).inc()

    async def _record(self, key: Name, raw: Object, made: Plan) -> None:
        if made.status is None:
            return
        try:
            self._written[key] = await self.cluster.write_status(raw, made.status)
        except Gone:
            return  # the run was deleted: nobody reads its status any more
        metrics.ACTIONS.labels("Status", raw["kind"]).inc()
        for note in made.notes:
            await self._tell(raw, note)

    async def _tell(self, raw: Object, note: Note) -> None:
        """Leave an Event; the status says it all, so one that can't be left is only logged."""
        kind = TABLE[note.reason].event
        try:
            await self.cluster.tell(raw, kind, note.reason.value, note.message, rfc3339(self.clock()))
        except (Gone, Refused) as error:
            log.warning("no Event about %s: %s", raw["metadata"]["name"], error)

    def _resource(self, key: Name) -> Object | None:
        """The newest version known of: the watch's, or the one that this replica wrote and no watch has told of yet."""
        told = one(self.indices.runs, key)
        if told is None:
            self._written.pop(key, None)
            return None
        raw: Object = json.loads(told.text)
        written = self._written.get(key)
        if written is None:
            return raw
        same = written["metadata"]["uid"] == raw["metadata"]["uid"]
        if same and int(written["metadata"]["resourceVersion"]) > int(raw["metadata"]["resourceVersion"]):
            return written
        del self._written[key]
        return raw
