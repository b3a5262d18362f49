"""A namespace of a real cluster for one test, and operators that run in it as processes of their own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kubernetes.client.exceptions import ApiException

from esper_operator.main import main
from esper_operator.permissions import Permission
from forks import Child
from kubernetes import client, config
from parts import free_port

GROUP, VERSION = "esper.dev", "v1alpha1"
PLURALS = {"TrainingRun": "trainingruns", "Blueprint": "blueprints", "KernelArtifact": "kernelartifacts"}
CRDS = Path(__file__).resolve().parents[2] / "crds"
T = TypeVar("T")


def eventually(look: Callable[[], T | None], patience: float = 30.0, pause: float = 0.05) -> T:
    """What ``look`` returns as soon as that is true; the last answer or error is the failure."""
    deadline = time.monotonic() + patience
    said: object = None
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
            said = found
        except (AssertionError, LookupError, ApiException) as error:
            said = error
        time.sleep(pause)
    raise AssertionError(f"not within {patience:g} s; last: {said!r}")


class Kube:
    """One namespace, by the administrator's rights."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self.kubeconfig, self.namespace = kubeconfig, namespace
        self.api = config.new_client_from_config(kubeconfig)
        self.core, self.batch = client.CoreV1Api(self.api), client.BatchV1Api(self.api)
        self.custom = client.CustomObjectsApi(self.api)
        self.rbac = client.RbacAuthorizationV1Api(self.api)

    def create(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make a custom resource."""
        made = self.custom.create_namespaced_custom_object(GROUP, VERSION, self.namespace, plural, body)
        return dict(made)

    def get(self, plural: str, name: str) -> dict[str, Any]:
        """A custom resource."""
        return dict(self.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, plural, name))

    def patch(self, plural: str, name: str, body: dict[str, Any]) -> None:
        """Change fields of a custom resource."""
        self.custom.patch_namespaced_custom_object(GROUP, VERSION, self.namespace, plural, name, body)

    def delete(self, plural: str, name: str) -> None:
        """Delete a custom resource."""
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, plural, name)

    def run(self, name: str = "grow", **spec: Any) -> dict[str, Any]:
        """Make a small training run."""
        return self.create("trainingruns", training_run(name, **spec))

    def status(self, name: str = "grow") -> dict[str, Any]:
        """The status of a training run; empty before there is one."""
        return self.get("trainingruns", name).get("status") or {}

    def reason(self, wanted: str, name: str = "grow", patience: float = 60.0) -> dict[str, Any]:
        """The status, as soon as its reason is the one wanted."""

        def look() -> dict[str, Any] | None:
            status = self.status(name)
            assert status.get("reason") == wanted, f"{status.get('reason')}: {status.get('message')}"
            return status

        found = eventually(look, patience, 0.1)
        assert found is not None
        return found

    def job(self, name: str = "grow") -> Any:
        """A Job; raises ``ApiException`` when there is none."""
        return self.batch.read_namespaced_job(name, self.namespace)

    def pods(self, name: str = "grow") -> list[Any]:
        """Pods of a run."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=f"esper.dev/training-run={name}")
        return list(found.items)

    def condition(self, kind: str, name: str = "grow") -> dict[str, Any]:
        """A condition of a run; raises ``LookupError`` when there is none."""
        return {each["type"]: each for each in self.status(name)["conditions"]}[kind]

    def owned(self) -> dict[str, str]:
        """Uids of everything the operator made here, by kind and name."""
        selector = "app.kubernetes.io/managed-by=esper-operator"
        found = {}
        for kind, listing in (
            ("Job", self.batch.list_namespaced_job),
            ("ConfigMap", self.core.list_namespaced_config_map),
            ("Service", self.core.list_namespaced_service),
        ):
            for item in listing(self.namespace, label_selector=selector).items:
                found[f"{kind}/{item.metadata.name}"] = item.metadata.uid
        return found

    def events(self, name: str = "grow") -> list[str]:
        """Reasons of the Events about a run, oldest first."""
        about = f"involvedObject.name={name},involvedObject.kind=TrainingRun"
        found = self.core.list_namespaced_event(self.namespace, field_selector=about).items
        return [each.reason for each in sorted(found, key=lambda each: str(each.event_time))]


def training_run(name: str, **spec: Any) -> dict[str, Any]:
    """A small training run as a user would write it."""
    base = {
        "task": {"ref": "esper.tasks.mnist1d:task"},
        "slots": [{"path": "blocks.*"}],
        "training": {"epochs": 2},
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainingRun", "metadata": {"name": name}, "spec": base | spec,
    }  # fmt: skip


def install_crds(kubeconfig: str) -> None:
    """Make the custom resources known, or bring them up to date."""
    with config.new_client_from_config(kubeconfig) as api:
        extensions = client.ApiextensionsV1Api(api)
        for file in sorted(CRDS.glob("*.yaml")):
            body = yaml.safe_load(file.read_text())
            name = body["metadata"]["name"]
            try:
                extensions.create_custom_resource_definition(body)
            except ApiException as error:
                if error.status != 409:
                    raise
                extensions.patch_custom_resource_definition(name, body)

            def established(name: str = name) -> bool:
                there = extensions.read_custom_resource_definition(name)
                conditions = there.status.conditions or ()
                return any(each.type == "Established" and each.status == "True" for each in conditions)

            eventually(established)


@contextlib.contextmanager
def namespace(kubeconfig: str) -> Iterator[Kube]:
    """A namespace of its own, deleted at the end."""
    kube = Kube(kubeconfig, f"esper-{secrets.token_hex(4)}")
    kube.core.create_namespace({"metadata": {"name": kube.namespace}})
    eventually(lambda: kube.core.read_namespaced_service_account("default", kube.namespace))
    try:
        yield kube
    finally:
        with contextlib.suppress(ApiException):
            kube.core.delete_namespace(kube.namespace)
        kube.api.close()


@dataclass
class Running:
    """An operator that runs. ``port`` serves its health."""

    pid: int
    port: int
    log: Path

    def health(self, path: str = "healthz") -> int:
        """What it answers, as an HTTP status; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=2) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def leads(self) -> bool:
        """Whether it is the leader, by its own metrics."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            return b"esper_operator_leading 1.0" in answer.read()
        return False


@dataclass
class Operator(Running):
    """One replica, which can be ended."""

    child: Child

    def kill(self) -> None:
        """End it as a machine that loses power would."""
        self.child.kill()
        self.wait()

    def stop(self) -> int:
        """End it in good order; returns its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self, patience: float = 40.0) -> int:
        """Its exit code, or minus the signal that ended it."""
        status = self.child.wait(patience)
        assert status is not None, f"the operator still runs after {patience:g} s"
        return status


@dataclass
class Operators:
    """Replicas of one namespace, all ended with the test."""

    kube: Kube
    folder: Path
    started: list[Operator] = field(default_factory=list)

    def start(self, kubeconfig: str = "", **settings: str) -> Operator:
        """Start a replica; ``settings`` by their names without the prefix."""
        port = free_port()
        number = len(self.started)
        values = {
            "image": "localhost/esper-test:1", "namespaces": f'["{self.kube.namespace}"]',
            "lease_namespace": self.kube.namespace, "identity": f"replica-{number}", "port": str(port),
        } | settings  # fmt: skip
        log = self.folder / f"operator-{number}.log"
        variables = {f"ESPER_OPERATOR_{name.upper()}": value for name, value in values.items()}
        variables["KUBECONFIG"] = kubeconfig or self.kube.kubeconfig

        def become() -> None:
            os.environ.update(variables)
            main()

        child = Child(become, log)
        self.started.append(Operator(child.pid, port, log, child))
        return self.started[-1]

    def end(self) -> None:
        """Kill what still runs."""
        for operator in self.started:
            operator.kill()


@contextlib.contextmanager
def program(kubeconfig: str, namespace: str, log: Path, **settings: str) -> Iterator[Running]:
    """An operator that is a program of its own, for one that is measured: a child has loaded more than it needs."""
    port = free_port()
    values = {
        "image": "localhost/esper-worker:1", "namespaces": f'["{namespace}"]', "lease_namespace": namespace,
        "port": str(port),
    } | settings  # fmt: skip
    variables = {f"ESPER_OPERATOR_{name.upper()}": value for name, value in values.items()}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "esper_operator.main"], stdout=output, stderr=output,
            env=os.environ | variables | {"KUBECONFIG": kubeconfig},
        )  # fmt: skip
        try:
            yield Running(process.pid, port, log)
        finally:
            process.terminate()
            assert process.wait(timeout=30) == 0


def limited(kube: Kube, folder: Path, table: Iterable[Permission]) -> str:
    """A kubeconfig of a service account that has these permissions in its namespace."""
    namespace = kube.namespace
    kube.core.create_namespaced_service_account(namespace, {"metadata": {"name": "operator"}})
    rules = [each.rule() for each in table]
    kube.rbac.create_namespaced_role(namespace, {"metadata": {"name": "operator"}, "rules": rules})
    kube.rbac.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
        },
    )
    token = kube.core.create_namespaced_service_account_token("operator", namespace, {"spec": {}}).status.token
    mine = yaml.safe_load(Path(kube.kubeconfig).read_text())
    mine["users"][0]["user"] = {"token": token}
    made = folder / "limited.kubeconfig"
    made.write_text(yaml.safe_dump(mine))
    return str(made)
