"""How each kind of resource is looked at: what is read, and which plan is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from esper_operator.cluster import Cluster
from esper_operator.handlers.indices import Indices, Name
from esper_operator.handlers.reconcile import Look, Reconciler, now
from esper_operator.library import KernelLibrary
from esper_operator.news import Listener
from esper_operator.plan import blueprint, kernel_artifact, training_run
from esper_operator.plan.actions import Object, Plan
from esper_operator.plan.blueprint import BlueprintSeen
from esper_operator.plan.kernel_artifact import Known, Pools, Wanted
from esper_operator.plan.observed import Refusal
from esper_operator.plan.reading import read_blueprint, read_kernel_artifact, read_run
from esper_operator.plan.settings import PodSettings
from esper_operator.reasons import Reason
from esper_operator.refused import Refused
from leyline.resources.enums import KernelPhase


def anybody_serves(phase: KernelPhase, hardware: str) -> bool:
    """Where it is not known which pools there are, one is hoped for."""
    return True


NO_LIBRARY = Refusal("library", "none", Reason.NO_LIBRARY)


class Runs(Reconciler):
    """Training runs."""

    def __init__(
        self, indices: Indices, cluster: Cluster, settings: PodSettings, news: Listener | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:  # fmt: skip
        super().__init__(lambda: indices.runs, cluster, clock=clock)
        self._indices, self._settings, self._news = indices, settings, news

    async def look(self, raw: Object, key: Name) -> Look:
        """See ``Reconciler``."""
        run = read_run(raw)
        seen = self._indices.observed(key, run.metadata.uid or "")
        if self._news is not None and self._indices.only_one_called(key[1]):
            ended = seen.job is not None and bool(seen.job.outcome)
            seen = replace(seen, progress=self._news.of(key[1], ended=ended))

        def planned(refusal: Refusal | None) -> Plan:
            return training_run.plan(run, replace(seen, refusal=refusal), self._settings, self._clock())

        return planned


class Blueprints(Reconciler):
    """Blueprints."""

    def __init__(
        self, indices: Indices, cluster: Cluster, library: KernelLibrary | None,
        clock: Callable[[], datetime] = now,
    ) -> None:  # fmt: skip
        super().__init__(lambda: indices.blueprints, cluster, library, clock)
        self._indices = indices

    async def look(self, raw: Object, key: Name) -> Look:
        """See ``Reconciler``."""
        design = read_blueprint(raw)
        seen = BlueprintSeen(children=self._indices.children_of(key))
        if self._library is None:
            seen = replace(seen, refusal=NO_LIBRARY)
        else:
            try:
                seen = replace(seen, entry=await self._library.blueprint(design.metadata.name))
            except Refused as error:
                seen = replace(seen, refusal=Refusal(error.what, error.message, error.reason))

        def planned(refusal: Refusal | None) -> Plan:
            return blueprint.plan(design, replace(seen, refusal=refusal or seen.refusal), self._clock())

        return planned


class KernelArtifacts(Reconciler):
    """Kernel artifacts."""

    def __init__(
        self, indices: Indices, cluster: Cluster, library: KernelLibrary | None, pools: Pools,
        serves: Callable[[KernelPhase, str], bool] = anybody_serves, clock: Callable[[], datetime] = now,
    ) -> None:  # fmt: skip
        super().__init__(lambda: indices.artifacts, cluster, library, clock)
        self._pools, self._serves = pools, serves

    async def look(self, raw: Object, key: Name) -> Look:
        """See ``Reconciler``."""
        artifact = read_kernel_artifact(raw)
        want: Wanted | Reason = Reason.BLUEPRINT_UNKNOWN
        known: Known | None = None
        problem: Refusal | None = None
        if self._library is None:
            problem = NO_LIBRARY
        else:
            try:
                entry = await self._library.blueprint(artifact.spec.blueprint)
                if entry is not None:
                    found = kernel_artifact.wanted(artifact, entry.digest, self._pools)
                    want = found or Reason.POOLS_UNKNOWN
                    known = None if found is None else await self._library.kernel(found.id)
            except Refused as error:
                problem = Refusal(error.what, error.message, error.reason)

        def planned(refusal: Refusal | None) -> Plan:
            hopeful = known is None or self._serves(known.state, known.hardware)
            return kernel_artifact.plan(artifact, want, known, refusal or problem, self._clock(), hopeful)

        return planned
