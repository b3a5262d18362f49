"""What is left in a namespace, whatever its kind, and what would keep it from going."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from clusters import Kube

KUBERNETES_OWN = frozenset({"kubernetes.io/pvc-protection", "batch.kubernetes.io/job-tracking", "foregroundDeletion"})
"""Finalizers that Kubernetes puts on and takes off by itself."""


class Left(NamedTuple):
    """An object that is there."""

    kind: str
    name: str
    finalizers: frozenset[str]
    release: str
    """The release of Helm's it belongs to, if any."""


def everything(kube: Kube) -> list[Left]:
    """Every object of the namespace, of every kind that the API server knows."""
    return [
        Left(
            resource["kind"],
            item["metadata"]["name"],
            frozenset(item["metadata"].get("finalizers") or ()),
            (item["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", ""),
        )
        for base, resource in _kinds(kube)
        for item in _get(kube, f"{base}/namespaces/{kube.namespace}/{resource['name']}").get("items") or ()
    ]


def held(kube: Kube) -> list[Left]:
    """Objects that somebody else than Kubernetes has to let go of."""
    return [each for each in everything(kube) if each.finalizers - KUBERNETES_OWN]


def _kinds(kube: Kube) -> Iterator[tuple[str, Any]]:
    groups = [group["preferredVersion"]["groupVersion"] for group in _get(kube, "/apis")["groups"]]
    for base in ("/api/v1", *(f"/apis/{version}" for version in groups)):
        for resource in _get(kube, base)["resources"]:
            if resource["namespaced"] and "list" in resource["verbs"] and "/" not in resource["name"]:
                yield base, resource


def _get(kube: Kube, path: str) -> Any:
    headers = {"Accept": "application/json"}
    answer = kube.api.call_api("GET", f"{kube.api.configuration.host}{path}", header_params=headers)
    answer.read()
    return json.loads(answer.data)
