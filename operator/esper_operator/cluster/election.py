"""One leader among the replicas, by a Lease. Who loses it stops at once: what follows is for the next leader."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock

from esper_operator.cluster.requests import Gone, Requests
from esper_operator.refused import Refused

LEASE = "esper-operator"
LEASE_SECONDS = 15
RENEW_SECONDS = 10
RETRY_SECONDS = 2
REQUEST_SECONDS = 5.0

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """The Lease could not be renewed in time."""


class _Lease(BaseLock):
    """The Lease as the library's election wants it; no answer in time counts as a refusal, and is tried again."""

    def __init__(self, name: str, namespace: str, identity: str, client: ApiClient) -> None:
        super().__init__(name, namespace, identity)
        self._request = Requests(client)
        self._there: dict[str, Any] = {}

    async def get(self, name: str, namespace: str) -> Any:
        try:
            self._there = await self._request("get", "Lease", namespace, name, seconds=REQUEST_SECONDS)
        except Gone:
            return False, _absent()
        except _UNANSWERED as error:
            return False, ApiException(status=0, reason=f"{type(error).__name__}: {error}")
        spec = self._there.get("spec") or {}
        said = [spec.get(each) for each in ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime")]
        return True, LeaderElectionRecord(*(str(each) if each else None for each in said))

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}}
        return await self._write("post", None, lease | {"spec": self._spec(election_record)})

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        # The resourceVersion that was read goes along: of two that try at once, one is refused.
        return await self._write("put", name, self._there | {"spec": self._spec(updated_record)})

    async def give_back(self) -> None:
        """Name no holder, so that another replica need not wait for the Lease to run out."""
        held, record = await self.get(self.name, self.namespace)
        if held and record.holder_identity == self.identity:
            await self._write("put", self.name, self._there | {"spec": self._there["spec"] | {"holderIdentity": ""}})

    async def _write(self, method: str, name: str | None, lease: dict[str, Any]) -> bool:
        try:
            await self._request(method, "Lease", self.namespace, name, lease, seconds=REQUEST_SECONDS)
        except (Gone, Refused, *_UNANSWERED) as error:
            log.warning("the Lease was not written: %s: %s", type(error).__name__, error)
            return False
        return True

    def _spec(self, record: LeaderElectionRecord) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._there.get("spec") or {}
        own = before.get("holderIdentity") == record.holder_identity
        return {
            "holderIdentity": record.holder_identity,
            "leaseDurationSeconds": LEASE_SECONDS,
            "acquireTime": before.get("acquireTime", now) if own else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if own else 1),
        }


_UNANSWERED = (aiohttp.ClientError, DynamicApiError, TimeoutError, OSError)


def _absent() -> ApiException:
    """What the election takes for leave to make the Lease."""
    error = ApiException(status=404, reason="not found")
    error.body = json.dumps({"code": 404})
    return error


async def lead(
    client: ApiClient, namespace: str, identity: str, work: Callable[[], Coroutine[Any, Any, None]], name: str = LEASE
) -> None:
    """Wait for the Lease, then run ``work`` while it is held.

    Returns when ``work`` has ended, and gives the Lease back for another replica to take at once; raises what ``work``
    raises, and ``LeaseLost`` when another may be leading by now.
    """
    lock = _Lease(name, namespace, identity, client)
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leading() -> None:
        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if not ended.done():
            if task.cancelled():
                ended.cancel()
            elif (error := task.exception()) is not None:
                ended.set_exception(error)
            else:
                ended.set_result(None)

    async def stopped() -> None:
        if not ended.done():
            ended.set_exception(LeaseLost(f"{namespace}/{name}"))

    election = asyncio.create_task(
        LeaderElection(Config(lock, LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, leading, stopped)).run()
    )
    try:
        await asyncio.wait({election, ended}, return_when=asyncio.FIRST_COMPLETED)
        if election.done() and election.exception() is not None:
            await election
        await ended
    finally:
        election.cancel()
    await lock.give_back()
