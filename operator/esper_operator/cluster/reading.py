"""What ``kubectl esper`` asks of the cluster: runs and what belongs to them, by the rights of the person who asks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from esper_operator.keys import DOMAIN, RUN
from kubernetes import client, config

VERSION = "v1alpha1"
REQUEST_SECONDS = 30.0
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
Object = dict[str, Any]


class Unreachable(Exception):
    """The cluster does not answer, or nothing says where it is."""


class NotThere(Exception):
    """There is no such object."""


class NotAllowed(Exception):
    """The person may not do this."""


class Reader:
    """A cluster by a kubeconfig's context, or by the pod this runs in.

    Raises:
        Unreachable: nothing says where a cluster is; every method: it does not answer.
        NotThere, NotAllowed: every method.
    """

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        try:
            self._api, self.namespace = _connected(kubeconfig, context)
        except (ConfigException, OSError) as error:
            raise Unreachable(f"no cluster is configured: {error}") from error
        self._custom = client.CustomObjectsApi(self._api)
        self._core = client.CoreV1Api(self._api)

    def run(self, namespace: str, name: str) -> Object:
        """A training run."""
        what = f"training run {name} in namespace {namespace}"
        found: Object = self._asked(
            what, self._custom.get_namespaced_custom_object, DOMAIN, VERSION, namespace, "trainingruns", name
        )
        return found

    def runs(self, namespace: str | None) -> list[Object]:
        """Training runs of a namespace, or of all."""
        return self._listed(DOMAIN, VERSION, "trainingruns", namespace)

    def kernels(self, namespace: str | None) -> list[Object]:
        """Kernel artifacts of a namespace, or of all."""
        return self._listed(DOMAIN, VERSION, "kernelartifacts", namespace)

    def jobs(self, namespace: str, run: str) -> list[Object]:
        """Jobs of a run."""
        return self._listed("batch", "v1", "jobs", namespace, label_selector=f"{RUN}={run}")

    def pods(self, namespace: str, run: str) -> list[Object]:
        """Pods of a run."""
        answer = self._asked(
            f"pods in namespace {namespace}", self._core.list_namespaced_pod, namespace,
            label_selector=f"{RUN}={run}", _preload_content=False,
        )  # fmt: skip
        return list(json.loads(answer.data)["items"])

    def events(self, namespace: str, names: set[str]) -> list[Object]:
        """Events about objects of these names."""
        found = self._listed("events.k8s.io", "v1", "events", namespace)
        return [each for each in found if (each.get("regarding") or {}).get("name") in names]

    def suspend(self, namespace: str, name: str, wanted: bool) -> None:
        """Set ``spec.suspend``, and nothing else."""
        what = f"training run {name} in namespace {namespace}"
        self._asked(
            what, self._custom.patch_namespaced_custom_object, DOMAIN, VERSION, namespace, "trainingruns", name,
            {"spec": {"suspend": wanted}},
        )  # fmt: skip

    def create(self, namespace: str, manifest: Object) -> str:
        """Make a training run; returns its name, which the API server may have made up."""
        found: Object = self._asked(
            f"a training run in namespace {namespace}", self._custom.create_namespaced_custom_object, DOMAIN, VERSION,
            namespace, "trainingruns", manifest,
        )  # fmt: skip
        return str(found["metadata"]["name"])

    def delete(self, namespace: str, name: str) -> None:
        """Delete a training run, and with it all that it owns."""
        what = f"training run {name} in namespace {namespace}"
        self._asked(
            what, self._custom.delete_namespaced_custom_object, DOMAIN, VERSION, namespace, "trainingruns", name
        )

    def log(
        self, namespace: str, pod: str, container: str, *, follow: bool, previous: bool, tail: int | None
    ) -> Iterator[str]:
        """Lines of a container's log as they come."""
        more = {} if tail is None else {"tail_lines": tail}
        answer = self._asked(
            f"log of pod {pod}", self._core.read_namespaced_pod_log, pod, namespace, container=container, follow=follow,
            previous=previous, _preload_content=False,
            _request_timeout=None if follow else REQUEST_SECONDS, **more,
        )  # fmt: skip
        try:
            rest = b""
            for piece in answer.stream(amt=None):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")
        finally:
            answer.release_conn()

    def close(self) -> None:
        """Give connections back."""
        self._api.close()  # type: ignore[no-untyped-call]

    def _listed(self, group: str, version: str, plural: str, namespace: str | None, **given: Any) -> list[Object]:
        """Objects as they are: the client's own models refuse some that the API server has."""
        if namespace is None:
            found = self._asked(plural, self._custom.list_cluster_custom_object, group, version, plural, **given)
        else:
            found = self._asked(
                f"{plural} in namespace {namespace}", self._custom.list_namespaced_custom_object, group, version,
                namespace, plural, **given,
            )  # fmt: skip
        return list(found["items"])

    def _asked(self, what: str, ask: Callable[..., Any], *given: Any, **more: Any) -> Any:
        try:
            answer = ask(*given, **{"_request_timeout": REQUEST_SECONDS} | more)
            if isinstance(answer, urllib3.HTTPResponse) and answer.status >= 400:
                raise ApiException(http_resp=answer)
            return answer
        except ApiException as error:
            if error.status == 404:
                raise NotThere(f"{what}: not found") from error
            if error.status in (401, 403):
                raise NotAllowed(f"{what}: the cluster does not allow this ({error.reason})") from error
            if error.status in (400, 409, 422):
                raise NotAllowed(f"{what}: {_message(error)}") from error
            raise Unreachable(f"{what}: the cluster answered {error.status} {error.reason}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the cluster does not answer: {error}") from error


def _connected(kubeconfig: str | None, context: str | None) -> tuple[client.ApiClient, str]:
    """A client, and the namespace its context is about."""
    if kubeconfig is None and context is None and OWN_NAMESPACE.exists() and not _has_kubeconfig():
        made = client.Configuration()
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
        return client.ApiClient(made), OWN_NAMESPACE.read_text().strip()
    api = config.new_client_from_config(kubeconfig, context=context)  # type: ignore[no-untyped-call]
    contexts, active = config.list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
    chosen = next((each for each in contexts if each["name"] == context), active)
    return api, str((chosen.get("context") or {}).get("namespace") or "default")


def _message(error: ApiException) -> str:
    """What the API server said, as far as it said anything."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _has_kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube" / "config").exists()
