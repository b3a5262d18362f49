"""Actions of a plan, done: one request each, with a precondition that spares somebody else's object."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kubernetes.aio.client import ApiClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError

from esper_operator.cluster.requests import BRIEF, BRIEF_LIST, JSON, Requests
from esper_operator.keys import DOMAIN, FIELD_MANAGER
from esper_operator.plan.actions import Adjust, Apply, ClusterAction, Create, Delete, Object
from esper_operator.plan.observed import owner_of
from esper_operator.reasons import Reason
from esper_operator.refused import Refused

CONFLICT = 409
LONGEST_NOTE = 1024


class Cluster:
    """Writes to the cluster, every request within ``REQUEST_SECONDS``.

    Raises, from every method:
        Refused: the request can't be granted as it is.
        Gone: what it was meant for has changed its identity.
        DynamicApiError, aiohttp.ClientError, TimeoutError: it may be granted later.
    """

    def __init__(self, client: ApiClient) -> None:
        self._request = Requests(client)

    async def execute(self, action: ClusterAction, namespace: str) -> None:
        """Do one action of a plan."""
        match action:
            case Create():
                await self._create(action.object, namespace)
            case Apply():
                pinned = action.object | {"metadata": action.object["metadata"] | {"uid": action.uid}}
                await self._apply(pinned, namespace)
            case Adjust():
                pinned = action.patch | {"metadata": action.patch.get("metadata", {}) | {"uid": action.uid}}
                await self._request(
                    "patch", action.kind, namespace, action.name, pinned,
                    content_type="application/merge-patch+json", field_manager=FIELD_MANAGER, accept=BRIEF,
                )  # fmt: skip
            case Delete():
                options = {"preconditions": {"uid": action.uid}, "propagationPolicy": "Background"}
                await self._request("delete", action.kind, namespace, action.name, options)

    async def write_status(self, resource: Object, status: Object) -> Object:
        """Make ``status`` the status of this very resource; returns the resource as it is then."""
        return await self._apply(status_body(resource, status), resource["metadata"]["namespace"], subresource="status")

    async def tell(self, resource: Object, kind: str, reason: str, message: str, when: str) -> None:
        """Leave an Event about the resource; ``kind`` is Normal or Warning, ``when`` an RFC 3339 time."""
        event = event_body(resource, kind, reason, message, when)
        await self._request("post", "Event", resource["metadata"]["namespace"], None, event, accept=BRIEF)

    async def listing(self, kind: str, namespace: str | None, selector: str = "") -> dict[tuple[str, str], str]:
        """Resource versions by namespace and name, of everything of a kind."""
        found = [each["metadata"] async for each in self._pages(kind, namespace, selector, BRIEF_LIST)]
        return {(meta["namespace"], meta["name"]): meta["resourceVersion"] for meta in found}

    async def objects(self, kind: str, namespace: str, selector: str) -> list[Object]:
        """Everything of a kind that a label selector picks, as it is now; without ``kind`` and ``apiVersion``."""
        return [each async for each in self._pages(kind, namespace, selector)]

    async def _pages(
        self, kind: str, namespace: str | None, selector: str, accept: str = JSON
    ) -> AsyncIterator[Object]:
        following: str | None = None
        while True:
            page = await self._request(
                "get", kind, namespace, None, None, label_selector=selector or None, limit=500,
                _continue=following, accept=accept,
            )  # fmt: skip
            # Of nothing but metadata, a list of nothing is null and not empty.
            for item in page["items"] or ():
                yield item
            following = page["metadata"].get("continue")
            if not following:
                return

    async def _create(self, wanted: Object, namespace: str) -> None:
        name = wanted["metadata"]["name"]
        try:
            await self._request(
                "post", wanted["kind"], namespace, None, wanted, field_manager=FIELD_MANAGER, accept=BRIEF
            )
        except DynamicApiError as error:
            if error.status != CONFLICT:
                raise
            there = await self._request("get", wanted["kind"], namespace, name)
            if owner_of(there) != owner_of(wanted):
                leaving = ", which is being deleted" if there["metadata"].get("deletionTimestamp") else ""
                raise Refused(
                    f"{wanted['kind']} {name}", f"there is one of another owner{leaving}", Reason.NAME_TAKEN
                ) from error

    async def _apply(self, body: Object, namespace: str, subresource: str = "") -> Object:
        return await self._request(
            "patch", body["kind"], namespace, body["metadata"]["name"], body, subresource=subresource,
            content_type="application/apply-patch+yaml", field_manager=FIELD_MANAGER, force_conflicts=True,
        )  # fmt: skip


def status_body(resource: Object, status: Object) -> Object:
    """What makes ``status`` the status of this very resource."""
    meta = resource["metadata"]
    return {
        "apiVersion": resource["apiVersion"],
        "kind": resource["kind"],
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
        "status": status,
    }


def event_body(resource: Object, kind: str, reason: str, message: str, when: str) -> Object:
    """An Event about the resource; ``kind`` is Normal or Warning, ``when`` an RFC 3339 time."""
    meta = resource["metadata"]
    regarding = {
        "apiVersion": resource["apiVersion"], "kind": resource["kind"], "name": meta["name"],
        "namespace": meta["namespace"], "uid": meta["uid"],
    }  # fmt: skip
    return {
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": f"{meta['name']}-", "namespace": meta["namespace"]},
        "regarding": regarding, "type": kind, "reason": reason, "note": message[:LONGEST_NOTE],
        "action": "Reconcile", "reportingController": f"{DOMAIN}/operator", "reportingInstance": FIELD_MANAGER,
        "eventTime": when.replace("Z", ".000000Z"),
    }  # fmt: skip
