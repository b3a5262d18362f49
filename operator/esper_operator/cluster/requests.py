"""Single requests to the API server by plain objects, and what its refusals mean."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from kubernetes.aio.dynamic.resource import Resource

from esper_operator.cluster.connection import REQUEST_SECONDS
from esper_operator.keys import DOMAIN
from esper_operator.refused import Refused

KINDS: dict[str, tuple[str, str, str]] = {
    "ConfigMap": ("", "v1", "configmaps"),
    "Service": ("", "v1", "services"),
    "PodTemplate": ("", "v1", "podtemplates"),
    "Job": ("batch", "v1", "jobs"),
    "Lease": ("coordination.k8s.io", "v1", "leases"),
    "Event": ("events.k8s.io", "v1", "events"),
    "TrainingRun": (DOMAIN, "v1alpha1", "trainingruns"),
    "Blueprint": (DOMAIN, "v1alpha1", "blueprints"),
    "KernelArtifact": (DOMAIN, "v1alpha1", "kernelartifacts"),
}
"""Group, version and plural of everything the operator writes; nothing is discovered."""

JSON = "application/json"
BRIEF = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Asks for an answer without spec and status, where nobody reads these."""
BRIEF_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
NOT_FOUND, CONFLICT = 404, 409
REFUSALS = frozenset({400, 403, 413, 422})


class Gone(Exception):
    """The object an action was meant for is there no more, or is another one now: look again."""


class Requests:
    """Requests by method, kind, namespace and name.

    Raises:
        Refused: the request can't be granted as it is.
        Gone: what it was meant for is not there, or is another one now.
        DynamicApiError, aiohttp.ClientError, TimeoutError: it may be granted later.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = DynamicClient(client)  # type: ignore[no-untyped-call]

    async def __call__(
        self, method: str, kind: str, namespace: str | None, name: str | None, body: Any = None, *,
        subresource: str = "", accept: str = JSON, seconds: float = REQUEST_SECONDS, **params: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """One request; returns what the server answered, as ``accept`` has it. ``params`` are the dynamic client's."""
        group, version, plural = KINDS[kind]
        resource = Resource(  # type: ignore[no-untyped-call]
            prefix="apis" if group else "api", group=group, api_version=version, kind=kind, name=plural,
            namespaced=True, client=self._client,
        )  # fmt: skip
        path = resource.path(name=name, namespace=namespace)  # type: ignore[no-untyped-call]
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            answer = await self._client.request(
                method,
                f"{path}/{subresource}" if subresource else path,
                body=body,
                serialize=False,
                _request_timeout=timeout,
                header_params={"Accept": accept},
                **params,
            )
        except DynamicApiError as error:
            if error.status in REFUSALS:
                raise Refused(f"{kind} {name or body['metadata'].get('name', '')}", _message(error)) from error
            if name and (error.status == NOT_FOUND or (error.status == CONFLICT and method != "get")):
                raise Gone(f"{kind} {name}: {_message(error)}") from error
            raise
        read: dict[str, Any] = await answer.json()
        return read


def _message(error: DynamicApiError) -> str:
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
