"""Every few seconds: what waits in the library, which pools and Jobs there are, and what each pool's plan makes of it.

Nothing is remembered that matters, so a leader that dies is followed by one that goes on from what there is. While the
library or the API server does not answer, everything stays as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

import aiohttp
from kubernetes.aio.dynamic.exceptions import DynamicApiError

from esper_operator import metrics
from esper_operator.cluster import Cluster, Gone
from esper_operator.handlers.reconcile import now
from esper_operator.keys import POOL, WORKER
from esper_operator.library import KernelLibrary
from esper_operator.plan.actions import Adjust, Delete, Object
from esper_operator.plan.pool import InvalidPool, Pool, read_pool
from esper_operator.plan.pools import PoolJob, PoolPlan, job_seen, plan, served
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import TABLE, Reason
from esper_operator.refused import Refused
from leyline.resources.enums import KernelPhase

log = logging.getLogger(__name__)
AWAY = (aiohttp.ClientError, TimeoutError, OSError, DynamicApiError)


class Pooling:
    """The pools of one namespace."""

    def __init__(
        self, cluster: Cluster, library: KernelLibrary, namespace: str, clock: Callable[[], datetime] = now
    ) -> None:
        self._cluster, self._library, self._namespace, self._clock = cluster, library, namespace, clock
        self._pools: tuple[Pool, ...] | None = None
        self._said: dict[str, str] = {}

    def serves(self, phase: KernelPhase, hardware: str) -> bool:
        """Whether some pool takes such artifacts; yes as long as it is not known which pools there are."""
        return self._pools is None or served(phase, hardware, self._pools)

    async def serve(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            try:
                await self.turn()
            except (Refused, Gone, *AWAY) as error:
                metrics.POOL_FAILURES.inc()
                self._say("", f"pools stay as they are: {type(error).__name__}: {error}")
            else:
                self._said.pop("", None)
            await asyncio.sleep(seconds)

    async def turn(self) -> None:
        """Look once; raises ``Refused`` and what ``Cluster`` raises when the library or the API server is away."""
        templates = await self._cluster.objects("PodTemplate", self._namespace, WORKER)
        pools = [(raw, pool) for raw in templates if (pool := await self._read(raw)) is not None]
        self._pools = tuple(pool for _, pool in pools)
        for gone in self._said.keys() - {"", *(raw["metadata"]["name"] for raw in templates)}:
            del self._said[gone]
        waiting = await self._library.waiting() if pools else ()
        jobs = [job_seen(raw) for raw in await self._cluster.objects("Job", self._namespace, POOL)] if pools else []
        plans = [(raw, pool, plan(pool, waiting, _of(pool, jobs))) for raw, pool in pools]
        _measure(plans)
        for raw, pool, made in plans:
            await self._do(raw, pool, made)

    async def _read(self, raw: Object) -> Pool | None:
        try:
            return read_pool(raw)
        except InvalidPool as error:
            await self._tell(raw, Reason.POOL_INVALID, str(error))
            return None

    async def _do(self, raw: Object, pool: Pool, made: PoolPlan) -> None:
        try:
            for action in made.actions:
                await self._cluster.execute(action, self._namespace)
                metrics.ACTIONS.labels(type(action).__name__, "Job").inc()
                kind = "made" if not isinstance(action, Adjust | Delete) else "changed"
                log.info("pool %s: a Job was %s: %s", pool.name, kind, made.told or "an earlier template's ends")
        except Gone as error:
            log.info("pool %s: %s; looked at again", pool.name, error)
        except Refused as error:
            metrics.POOL_FAILURES.inc()
            await self._tell(raw, error.reason, str(error))
        else:
            if made.held:
                await self._tell(raw, Reason.POOL_FAILING, f"{made.held} failed; no other is made while it is there")
            elif made.told:
                await self._tell(raw, Reason.POOL_SCALED, made.told)
            else:
                self._said.pop(pool.name, None)

    async def _tell(self, raw: Object, reason: Reason, message: str) -> None:
        """Leave an Event about the pool, once for the same thing."""
        if not self._say(raw["metadata"]["name"], f"{reason}: {message}", quietly=reason is Reason.POOL_SCALED):
            return
        about = {"apiVersion": "v1", "kind": "PodTemplate", **raw}
        try:
            await self._cluster.tell(about, TABLE[reason].event, reason.value, message, rfc3339(self._clock()))
        except (Gone, Refused) as error:
            log.warning("no Event about pool %s: %s", raw["metadata"]["name"], error)

    def _say(self, what: str, message: str, quietly: bool = False) -> bool:
        """Log it unless that was the last thing said of it; returns whether it was new."""
        if self._said.get(what) == message:
            return False
        self._said[what] = message
        log.log(logging.INFO if quietly else logging.WARNING, "%s%s", what and f"pool {what}: ", message)
        return True


def _of(pool: Pool, jobs: Sequence[PoolJob]) -> list[PoolJob]:
    return [job for job in jobs if job.pool == pool.name]


def _measure(plans: Sequence[tuple[Object, Pool, PoolPlan]]) -> None:
    """Tell Prometheus; pools that are gone are not told of any more."""
    for gauge in (metrics.POOL_WAITING, metrics.POOL_WANTED, metrics.POOL_WORKING):
        gauge.clear()
    for _, pool, made in plans:
        metrics.POOL_WAITING.labels(pool.name).set(made.artifacts)
        metrics.POOL_WANTED.labels(pool.name).set(made.wanted)
        metrics.POOL_WORKING.labels(pool.name).set(made.working)
