"""Esper installed by Helm in a real cluster, as a user would: a namespace, Secrets, claims and ``helm install``."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubernetes.client import AppsV1Api
from kubernetes.client.exceptions import ApiException

import charts
import real_images
from clusters import Kube, eventually, install_crds, namespace
from copies import copied
from esper.kernel.hardware import hardware_target, toolchain_hash
from esper.urza import RemoteLibrary
from real_installation import BUCKETS, DATABASE_PORT, HOST, OBJECTS_PORT, Node, Site

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "4Gi"}}
"""Everything fits on one small node."""


class Trial(Kube):
    """A namespace with an installation in it that brought its servers."""

    def __init__(self, node: Node, name: str) -> None:
        super().__init__(node.kubeconfig, name)
        self.node = node
        self.apps = AppsV1Api(self.api)

    def provide(self) -> None:
        """What the chart expects to be there: claims for packages and runs."""
        self.core.patch_namespace(self.namespace, {"metadata": {"labels": RESTRICTED}})
        runs = self.node.runs / self.namespace
        runs.mkdir(exist_ok=True)
        runs.chmod(0o777)
        for name, path, mode in (("packages", self.node.packages, "ReadOnlyMany"), ("runs", runs, "ReadWriteMany")):
            self._claim(name, path, mode)

    def install(self, *more: charts.Object, verb: str = "install") -> None:
        """``helm install`` or ``helm upgrade``, with values over ``values``; raises ``charts.Refused``."""
        values = self.values()
        for each in more:
            values = charts.merged(values, each)
        charts.run(
            verb, "esper", str(charts.CHART), "--namespace", self.namespace, "--skip-crds",
            values=values, environment={"KUBECONFIG": self.kubeconfig},
        )  # fmt: skip

    def uninstall(self) -> None:
        """``helm uninstall``."""
        charts.run("uninstall", "esper", "--namespace", self.namespace, environment={"KUBECONFIG": self.kubeconfig})

    def values(self) -> charts.Object:
        """Values for a small node."""
        part = {"resources": SMALL}
        pool = part | {"idleSeconds": 20, "max": 1}
        image = {"tag": real_images.TAG}
        packages = {"name": "packages", "mountPath": "/packages", "readOnly": True}
        everything = {
            "images": {"operator": image, "worker": image, "pullPolicy": "Never"},
            "crds": {"install": False},
            "worker": {
                # Tests go on beside it: what could not be measured then can be a moment later.
                "env": {"PYTHONPATH": "/packages", "OMP_NUM_THREADS": "1", "ESPER_DISPATCH_NOISY_REST_SECONDS": "15"},
                "extraVolumes": [{"name": "packages", "persistentVolumeClaim": {"claimName": "packages"}}],
                "extraVolumeMounts": [packages],
            },
            "training": {"runsVolume": {"persistentVolumeClaim": {"claimName": "runs"}}},
            "pools": {"hardware": hardware_target(), "toolchain": toolchain_hash()},
            "operator": part,
            "urza": part | {"tokens": {"issuer": "https://kubernetes.default.svc"}},
            "dispatcher": part, "tezzeret": pool, "urabrask": pool,
        }  # fmt: skip
        return charts.merged(everything, self.servers())

    def servers(self) -> charts.Object:
        """Values that say where the servers are."""
        server = {"image": {"repository": "localhost/esper-servers", "tag": real_images.TAG}, "resources": SMALL}
        return {"dev": {"enabled": True, "postgres": server, "s3": server, "pulsar": server}}

    def ready(self, *parts: str, patience: float = 240.0) -> None:
        """Wait until Deployments are fully there."""

        def look() -> bool:
            for part in parts:
                status = self.apps.read_namespaced_deployment(f"esper-{part}", self.namespace)
                wanted = status.spec.replicas
                assert (status.status.ready_replicas or 0) >= wanted, f"{part}: {self.told(part)}"
                assert (status.status.updated_replicas or 0) >= wanted, f"{part}: an older one is there still"
            return True

        eventually(look, patience, 0.5)

    def told(self, part: str) -> str:
        """What is known of a part's pods: states and last words."""
        found = []
        for pod in self.of(part):
            found.append(f"{pod.metadata.name} {pod.status.phase}")
            for status in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
                state = status.state.waiting or status.state.terminated
                with contextlib.suppress(ApiException):
                    words = self.logs(pod.metadata.name, status.name)[-1500:]
                    found.append(f"{status.name}: {state and state.reason}: {words}")
        return "\n".join(found)

    def of(self, part: str) -> list[Any]:
        """Pods of a part of the installation."""
        selector = f"app.kubernetes.io/component={part}"
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def logs(self, pod: str, container: str | None = None) -> str:
        """What a pod wrote."""
        return str(self.core.read_namespaced_pod_log(pod, self.namespace, container=container))

    def output(self, name: str = "grow") -> Path:
        """The directory a run wrote, on this machine."""
        uid = self.get("trainingruns", name)["metadata"]["uid"]
        return self.node.runs / self.namespace / uid

    def summary(self, name: str = "grow") -> dict[str, Any]:
        """The summary a run wrote."""
        return dict(json.loads((self.output(name) / "summary.json").read_text()))

    @contextlib.contextmanager
    def library(self) -> Iterator[RemoteLibrary]:
        """The installation's, with the rights of its dispatcher; to be used by this thread."""
        spec = {"spec": {"audiences": ["esper-urza"]}}
        token = self.core.create_namespaced_service_account_token("esper-dispatcher", self.namespace, spec)
        # The node has no route to the addresses of Services.
        pod = self.of("urza")[0].status.pod_ip
        with self.node.network():
            library = RemoteLibrary(f"http://{pod}:8460", token.status.token)
            try:
                yield library
            finally:
                library.close()

    def library_copy(self, folder: Path) -> Path:
        """A library on this machine with what the installation's holds."""
        keys = {}
        for name in ("built", "validated"):
            secret = self.core.read_namespaced_secret(f"esper-signing-{name}", self.namespace)
            keys[name] = base64.b64decode(secret.data["key.pem"])
        with self.library() as theirs:
            return copied(theirs, keys, folder)

    def _claim(self, name: str, path: Path, mode: str) -> None:
        """A volume over a folder of this machine, and a claim to it: pods may not name folders themselves."""
        volume = f"{self.namespace}-{name}"
        size, shared = {"storage": "1Gi"}, {"accessModes": [mode], "storageClassName": ""}
        self.core.create_persistent_volume(
            {
                "metadata": {"name": volume},
                "spec": shared | {"capacity": size, "hostPath": {"path": str(path)},
                                  "persistentVolumeReclaimPolicy": "Retain"},
            }
        )  # fmt: skip
        self.core.create_namespaced_persistent_volume_claim(
            self.namespace,
            {"metadata": {"name": name}, "spec": shared | {"volumeName": volume, "resources": {"requests": size}}},
        )


class Installed(Trial):
    """A namespace with an installation in it whose servers are beside the cluster."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site, name)
        self.site = site

    def provide(self) -> None:
        """Claims, and Secrets for the servers."""
        super().provide()
        site = self.site
        for name, data in {
            "database": {"username": "esper", "password": site.password},
            "objects": {"access-key": site.access_key, "secret-key": site.secret_key},
            "broker": {"token": site.broker.address.token},
        }.items():
            body = {"metadata": {"name": name}, "stringData": data}
            self.core.create_namespaced_secret(self.namespace, body)

    def servers(self) -> charts.Object:
        """Values that say where the servers are."""
        return {
            "urza": {
                "database": {
                    "host": HOST, "port": DATABASE_PORT, "name": "library", "sslMode": "disable",
                    "existingSecret": "database",
                },
                "objects": {
                    "bucket": BUCKETS[0], "endpoint": f"http://{HOST}:{OBJECTS_PORT}", "existingSecret": "objects",
                },
            },
            "pulsar": {
                "serviceUrl": self.site.broker.address.service_url, "adminUrl": self.site.broker.address.admin_url,
                "existingSecret": "broker", "plaintextToken": True, "namespace": self.namespace,
            },
        }  # fmt: skip


@contextlib.contextmanager
def installation(site: Site, *values: charts.Object) -> Iterator[Installed]:
    """Esper in a namespace of its own; everything is there and ready."""
    install_crds(site.kubeconfig)
    with namespace(site.kubeconfig) as kube:
        made = Installed(site, kube.namespace)
        made.provide()
        made.install(*values)
        made.ready("operator", "urza", "dispatcher")
        yield made
