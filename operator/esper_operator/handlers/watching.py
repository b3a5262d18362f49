"""The watches, by kopf: indices of what there is, and one event handler per kind that queues the run it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kopf._core.engines.peering import Identity

from esper_operator.cluster.connection import REQUEST_SECONDS
from esper_operator.handlers.indices import Indices, Key, Name, resource_seen
from esper_operator.handlers.storage import NoDiffs, NoProgress
from esper_operator.keys import BLUEPRINT, DOMAIN, MANAGED_SELECTOR, RUN, RUN_UID
from esper_operator.plan.blueprint import ChildSeen
from esper_operator.plan.observed import job_seen, object_seen, owner_of, pod_seen

RUNS = (DOMAIN, "v1alpha1", "trainingruns")
BLUEPRINTS = (DOMAIN, "v1alpha1", "blueprints")
ARTIFACTS = (DOMAIN, "v1alpha1", "kernelartifacts")
OWN = {"TrainingRun": RUNS, "Blueprint": BLUEPRINTS, "KernelArtifact": ARTIFACTS}
JOBS = ("batch", "v1", "jobs")
PODS = ("", "v1", "pods")
CONFIGS = ("", "v1", "configmaps")
SERVICES = ("", "v1", "services")
PAGE = 500


class Watches:
    """Watches fill ``indices`` and call ``changed`` with every resource that changed, itself or what it owns.

    ``changed`` is told whether somebody waits for the resource: its spec is one that no status has taken note of yet.
    """

    def __init__(self, changed: Callable[[Key, bool], None], gone: Callable[[Key], None]) -> None:
        self.indices = Indices()
        self._changed, self._gone = changed, gone
        self._registry = kopf.OperatorRegistry()
        self._declare_indices()
        self._declare_events()

    async def run(self, namespaces: tuple[str, ...], ready: asyncio.Event | None = None) -> None:
        """Watch until cancelled; every namespace when none is named. Raises what a watch can't recover from."""
        await kopf.operator(
            registry=self._registry,
            settings=settings(),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=ready,
            # For peering, which is not used: kopf would take the user's name, and a container's user has none.
            identity=Identity("esper-operator"),
        )

    def _declare_indices(self) -> None:
        on, registry = kopf.on, self._registry

        @on.startup(registry=registry)
        async def begin(**given: Any) -> None:
            for name, (_, _) in INDICES.items():
                setattr(self.indices, name, given[f"esper_{name}"])

        @on.login(registry=registry)
        async def login(**given: Any) -> kopf.ConnectionInfo | None:
            return kopf.login_with_service_account(**given) or kopf.login_with_kubeconfig(**given)

        for name, (kind, entry) in INDICES.items():

            @on.index(*kind, registry=registry, id=f"esper_{name}")
            async def index(body: kopf.Body, entry: Entry = entry, **_: Any) -> Any:
                return entry(body)

    def _declare_events(self) -> None:
        for kind, resource in OWN.items():

            @kopf.on.event(*resource, registry=self._registry, id=f"{resource[2]}_changed")
            async def changed(body: kopf.Body, type: str | None, kind: str = kind, **_: Any) -> None:
                key = (kind, *_name(body))
                if type == "DELETED":
                    self._gone(key)
                else:
                    self._changed(key, _unnoticed(body))

        for resource in (JOBS, CONFIGS, SERVICES, PODS, ARTIFACTS):

            @kopf.on.event(*resource, registry=self._registry, id=f"{resource[2]}_owned_changed")
            async def owned_changed(body: kopf.Body, **_: Any) -> None:
                meta = body["metadata"]
                labels = meta.get("labels") or {}
                for label, kind in ((RUN, "TrainingRun"), (BLUEPRINT, "Blueprint")):
                    if owner := labels.get(label):
                        self._changed((kind, meta["namespace"], owner), False)


def settings() -> kopf.OperatorSettings:
    """How kopf watches: no finalizers, nothing written to resources, no CRD or namespace watches, bounded requests."""
    made = kopf.OperatorSettings()
    made.scanning.disabled = True
    made.posting.enabled = False
    made.networking.request_timeout = REQUEST_SECONDS
    made.networking.connect_timeout = REQUEST_SECONDS
    made.watching.chunk_size = PAGE
    made.persistence.progress_storage = NoProgress()
    made.persistence.diffbase_storage = NoDiffs()
    for group, _, plural in (JOBS, CONFIGS, SERVICES, PODS):
        made.watching.label_selectors[group, plural] = MANAGED_SELECTOR
    return made


def _name(body: Mapping[str, Any]) -> Name:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def _unnoticed(body: Mapping[str, Any]) -> bool:
    """Whether the status is of an earlier spec, or of none."""
    return bool((body.get("status") or {}).get("observedGeneration") != body["metadata"].get("generation"))


def _run_of(body: Mapping[str, Any]) -> str:
    return str((body["metadata"].get("labels") or {}).get(RUN_UID, ""))


def _blueprint_of(body: Mapping[str, Any]) -> Name:
    return body["metadata"]["namespace"], str((body["metadata"].get("labels") or {}).get(BLUEPRINT, ""))


def child_seen(body: Mapping[str, Any]) -> ChildSeen:
    """A KernelArtifact as its blueprint sees it."""
    meta = body["metadata"]
    return ChildSeen(meta["name"], meta["uid"], owner_of(body), (body.get("status") or {}).get("phase") or "")


Kind = tuple[str, str, str]
Entry = Callable[[Mapping[str, Any]], dict[Any, Any]]
INDICES: dict[str, tuple[Kind, Entry]] = {
    "runs": (RUNS, lambda body: {_name(body): resource_seen(body)}),
    "blueprints": (BLUEPRINTS, lambda body: {_name(body): resource_seen(body)}),
    "artifacts": (ARTIFACTS, lambda body: {_name(body): resource_seen(body)}),
    "children": (ARTIFACTS, lambda body: {_blueprint_of(body): child_seen(body)}),
    "jobs": (JOBS, lambda body: {_name(body): job_seen(body)}),
    "snapshots": (CONFIGS, lambda body: {_name(body): object_seen(body)}),
    "services": (SERVICES, lambda body: {_name(body): object_seen(body)}),
    "pods": (PODS, lambda body: {_run_of(body): pod_seen(body)}),
}
"""The fields of ``Indices``: what each is made of, and what of an object is kept under which key."""
