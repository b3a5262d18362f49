"""The chart on a real control plane: it installs, upgrades, keeps keys and runs, and goes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiextensionsV1Api, AuthorizationV1Api
from kubernetes.client.exceptions import ApiException

import charts
import parts
import real_kubernetes
from clusters import Kube, Operators, eventually, namespace
from esper.oona.keyfiles import TrustedFolder, load_signer, make_key
from esper.weatherlight.keys import load_public_keys, make_signing_key

pytestmark = pytest.mark.slow
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def plane() -> Iterator[str]:
    """A control plane of its own: the definitions of custom resources come and go with the chart."""
    try:
        with parts.private("kubernetes-chart") as home:
            facts = real_kubernetes.start(home)
            try:
                yield str(facts["kubeconfig"])
            finally:
                for part in ("scheduler", "controller-manager", "apiserver", "etcd"):
                    parts.stop(home / part)
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))


@pytest.fixture
def kube(plane: str) -> Iterator[Kube]:
    with namespace(plane) as made:
        made.core.patch_namespace(made.namespace, {"metadata": {"labels": RESTRICTED}})
        yield made
        # They are kept, and Helm would not have them belong to a release of another namespace.
        extensions = ApiextensionsV1Api(made.api)
        for name in definitions(made):
            # One whose storage is still being set up can't be emptied; that is then tried again ever more seldom.
            plural, _, group = name.partition(".")
            eventually(partial(made.custom.list_cluster_custom_object, group, "v1alpha1", plural))
            extensions.delete_custom_resource_definition(name)
        eventually(lambda: gone(made), patience=180)


def helm(kube: Kube, *words: str, values: charts.Object | None = None) -> str:
    return charts.run(*words, "--namespace", kube.namespace, values=values, environment={"KUBECONFIG": kube.kubeconfig})


def install(kube: Kube, values: charts.Object | None = None, verb: str = "install", chart: Path = charts.CHART) -> str:
    return helm(kube, verb, "esper", str(chart), values=charts.merged(charts.LEAST, values or {}))


def definitions(kube: Kube) -> dict[str, Any]:
    """Conditions of the custom resource definitions there are, by name."""
    found = ApiextensionsV1Api(kube.api).list_custom_resource_definition().items
    return {each.metadata.name: each.status.conditions for each in found if each.spec.group == "esper.dev"}


def gone(kube: Kube) -> bool:
    """Whether no definition is left; otherwise what is said of those that are."""
    left = definitions(kube)
    assert not left, left
    return True


def left(kube: Kube) -> set[str]:
    """Whatever of the release is still in its namespace."""
    wanted = "app.kubernetes.io/managed-by=Helm"
    listings: dict[str, Any] = {
        "Secret": kube.core.list_namespaced_secret, "ConfigMap": kube.core.list_namespaced_config_map,
        "Service": kube.core.list_namespaced_service, "Job": kube.batch.list_namespaced_job,
        "ServiceAccount": kube.core.list_namespaced_service_account, "Role": kube.rbac.list_namespaced_role,
        "RoleBinding": kube.rbac.list_namespaced_role_binding,
    }  # fmt: skip
    return {
        f"{kind}/{each.metadata.name}"
        for kind, ask in listings.items()
        for each in ask(kube.namespace, label_selector=wanted).items
    }


def limited(kube: Kube, account: str, folder: Path) -> str:
    """A kubeconfig of a service account of the release."""
    made = kube.core.create_namespaced_service_account_token(account, kube.namespace, {"spec": {}})
    config = yaml.safe_load(Path(kube.kubeconfig).read_text())
    config["users"][0]["user"] = {"token": made.status.token}
    path = folder / f"{account}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def keys_made(folder: Path) -> None:
    """What the Job's first container leaves."""
    for name, roles in (
        ("dispatcher", ["urza"]), ("tezzeret", ["tezzeret"]), ("urabrask", ["urabrask"]), ("trainer", ["tolaria"]),
    ):  # fmt: skip
        make_key(folder / "bus", name, roles)
    make_signing_key(folder / "built", "built")
    make_signing_key(folder / "validated", "validated")
    for secret in ("esper-postgres", "esper-s3"):
        place = folder / "logins" / secret
        place.mkdir(parents=True)
        (place / "user").write_text("esper")
        (place / "password").write_text(f"of {folder.name}")


def keep_keys(kube: Kube, folder: Path, config: str) -> subprocess.CompletedProcess[str]:
    """Run the Job's second container with the plan that is in the cluster."""
    (job,) = kube.batch.list_namespaced_job(kube.namespace).items
    (container,) = job.spec.template.spec.containers
    plan = next(each.value for each in container.env if each.name == "ESPER_KEYS_PLAN")
    plan = plan.replace(f"trainer-{kube.namespace}", "trainer")
    return subprocess.run(
        [sys.executable, "-m", "esper_operator.keeping"], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"ESPER_KEYS_PLAN": plan, "ESPER_KEYS_DIR": str(folder), "KUBECONFIG": config},
    )  # fmt: skip


def secrets(kube: Kube) -> dict[str, dict[str, str]]:
    found = kube.core.list_namespaced_secret(kube.namespace, label_selector="app.kubernetes.io/component=keys").items
    return {each.metadata.name: dict(each.data or {}) for each in found}


def test_install_upgrade_uninstall_and_install_again_keep_keys_and_runs(kube: Kube, tmp_path: Path) -> None:
    install(kube)
    assert definitions(kube).keys() == {"trainingruns.esper.dev", "blueprints.esper.dev", "kernelartifacts.esper.dev"}
    assert set(secrets(kube)) == {
        "esper-bus-dispatcher", "esper-bus-tezzeret", "esper-bus-urabrask", "esper-bus-trainer",
        "esper-signing-built", "esper-signing-validated",
    }  # fmt: skip
    assert not any(secrets(kube).values())
    config = limited(kube, "esper-keys", tmp_path)
    keys_made(tmp_path / "first")
    done = keep_keys(kube, tmp_path / "first", config)
    assert (done.returncode, done.stderr) == (0, "")
    first = secrets(kube)
    assert all(first.values())
    kube.run()

    install(kube, {"operator": {"workers": 4}, "tezzeret": {"max": 2}}, "upgrade")
    assert secrets(kube) == first, "an upgrade must not touch keys"
    trusted = kube.core.read_namespaced_config_map("esper-trusted", kube.namespace).data
    assert set(trusted) == {"dispatcher.json", "tezzeret.json", "urabrask.json", "trainer.json"}
    helm(kube, "uninstall", "esper")
    assert left(kube) == {f"Secret/{name}" for name in first}
    assert secrets(kube) == first
    assert kube.get("trainingruns", "grow")["spec"]["training"]["epochs"] == 2

    install(kube)
    config = limited(kube, "esper-keys", tmp_path)
    keys_made(tmp_path / "second")
    assert keep_keys(kube, tmp_path / "second", config).returncode == 0
    assert secrets(kube) == first, "who installs again has the keys of before"
    folder = tmp_path / "mounted"
    (folder / "trusted").mkdir(parents=True)
    for name, text in kube.core.read_namespaced_config_map("esper-trusted", kube.namespace).data.items():
        (folder / "trusted" / name).write_text(text)
    key = folder / "key.pem"
    key.write_bytes(base64.b64decode(first["esper-bus-tezzeret"]["key.pem"]))
    key.chmod(0o440)
    ring = TrustedFolder(folder / "trusted")
    assert ring.key_for(load_signer(key).key_id, "tezzeret", "kernels.catalog")
    public = folder / "public.json"
    public.write_text(kube.core.read_namespaced_config_map("esper-kernels", kube.namespace).data["public.json"])
    known = load_public_keys(public).to_dict()
    assert len(known["built"]) == len(known["validated"]) == 1
    helm(kube, "uninstall", "esper")


def test_passwords_of_a_trial_are_kept_over_upgrades(kube: Kube, tmp_path: Path) -> None:
    install(kube, charts.TRIAL)
    keys_made(tmp_path / "first")
    assert keep_keys(kube, tmp_path / "first", limited(kube, "esper-keys", tmp_path)).returncode == 0
    first = secrets(kube)
    read = {name: base64.b64decode(data).decode() for name, data in first["esper-s3"].items()}
    assert read == {"access-key": "esper", "secret-key": "of first"}
    assert set(first["esper-postgres"]) == {"username", "password"}
    install(kube, charts.merged(charts.TRIAL, {"operator": {"workers": 4}, "keys": {"generation": 2}}), "upgrade")
    keys_made(tmp_path / "second")
    assert keep_keys(kube, tmp_path / "second", limited(kube, "esper-keys", tmp_path)).returncode == 0
    assert secrets(kube) == first
    helm(kube, "uninstall", "esper")
    assert secrets(kube) == first, "data on claims of one's own may outlive the release"


def test_a_deleted_key_is_made_again_and_what_the_old_one_signed_is_still_believed(kube: Kube, tmp_path: Path) -> None:
    install(kube)
    config = limited(kube, "esper-keys", tmp_path)
    keys_made(tmp_path / "first")
    assert keep_keys(kube, tmp_path / "first", config).returncode == 0
    before = secrets(kube)
    kube.core.patch_namespaced_secret("esper-signing-built", kube.namespace, {"data": {"public.json": None}})
    keys_made(tmp_path / "second")
    half = keep_keys(kube, tmp_path / "second", config)
    assert half.returncode == 3
    assert "esper-signing-built: has no public.json" in half.stderr
    kube.core.delete_namespaced_secret("esper-signing-built", kube.namespace)
    gone = keep_keys(kube, tmp_path / "second", config)
    assert (gone.returncode, "does the release have it" in gone.stderr) == (3, True)
    install(kube, {"keys": {"generation": 2}}, "upgrade")
    config = limited(kube, "esper-keys", tmp_path)
    assert keep_keys(kube, tmp_path / "second", config).returncode == 0
    after = secrets(kube)
    assert {name for name in after if after[name] != before[name]} == {"esper-signing-built"}
    public = kube.core.read_namespaced_config_map("esper-kernels", kube.namespace).data["public.json"]
    assert len(json.loads(public)["built"]) == 2
    helm(kube, "uninstall", "esper")


def test_accounts_may_do_what_they_need_and_nothing_near_it(kube: Kube) -> None:
    install(kube)
    account = f"system:serviceaccount:{kube.namespace}:esper"

    def may(part: str, verb: str, resource: str, name: str = "", group: str = "") -> bool:
        asked = {"namespace": kube.namespace, "verb": verb, "resource": resource, "name": name, "group": group}
        body = {"spec": {"user": f"{account}-{part}", "resourceAttributes": asked}}
        return bool(AuthorizationV1Api(kube.api).create_subject_access_review(body).status.allowed)

    eventually(lambda: may("operator", "create", "jobs", group="batch"))
    assert may("keys", "patch", "secrets", "esper-bus-trainer")
    for part in ("operator", "urza", "dispatcher", "tezzeret", "urabrask"):
        for verb in ("get", "list", "watch", "create", "patch", "delete"):
            assert not may(part, verb, "secrets", "esper-bus-trainer"), (part, verb)
    for verb, name in (("list", ""), ("create", ""), ("delete", "esper-bus-trainer"), ("get", "somebody-elses")):
        assert not may("keys", verb, "secrets", name), verb
    for verb, resource, group in (
        ("create", "pods", ""), ("delete", "trainingruns", "esper.dev"), ("create", "serviceaccounts/token", ""),
        ("create", "rolebindings", "rbac.authorization.k8s.io"),
    ):  # fmt: skip
        assert not may("operator", verb, resource, group=group), resource
    helm(kube, "uninstall", "esper")


@pytest.mark.parametrize(("case", "pods"), [("everything", 7), ("trial", 10)])
def test_every_pod_is_admitted_where_only_restricted_ones_are(kube: Kube, case: str, pods: int) -> None:
    """By the API server's own admission, with its own idea of defaults and fields."""
    values = charts.merged(
        charts.CASES[case], {"training": {"namespaces": [kube.namespace]}, "crds": {"install": False}}
    )
    values["podMonitor"] = {"enabled": False}  # its definition is the Prometheus operator's
    objects = charts.rendered(values, namespace=kube.namespace)
    for each in charts.of_kind(objects, "ServiceAccount"):
        kube.core.create_namespaced_service_account(kube.namespace, each)
    tried = 0
    for name, pod in charts.pods(objects):
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name} | pod["metadata"], "spec": pod["spec"]}
        kube.core.create_namespaced_pod(kube.namespace, body, dry_run="All", field_validation="Strict")
        tried += 1
    assert tried == pods
    loose = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"},
             "spec": {"containers": [{"name": "c", "image": "i"}]}}  # fmt: skip
    with pytest.raises(ApiException, match="restricted"):
        kube.core.create_namespaced_pod(kube.namespace, loose, dry_run="All")


def test_the_operator_works_as_the_chart_tells_it_to(kube: Kube, tmp_path: Path) -> None:
    """With its account's rights, its environment, and a training pod the API server admits."""
    install(kube)
    (container,) = kube_deployment(kube, "esper-operator")["spec"]["template"]["spec"]["containers"]
    told = {
        entry["name"].removeprefix("ESPER_OPERATOR_").lower(): entry["value"]
        for entry in container["env"]
        if "value" in entry
        and entry["name"].startswith("ESPER_OPERATOR_")
        # Here is no pod: its address, and the files that are mounted into it.
        and not entry["name"].endswith(("_HOST", "_PORT", "_TOKEN_FILE", "_TRUST_DIR"))
    }
    operators = Operators(kube, tmp_path)
    try:
        operator = operators.start(limited(kube, "esper-operator", tmp_path), **told)
        kube.run()
        kube.reason("Unschedulable")
        (pod,) = kube.pods()
        assert "esper-bus-trainer" in {each.secret.secret_name for each in pod.spec.volumes if each.secret}
        assert operator.stop() == 0
        assert "forbidden" not in operator.log.read_text().lower()
    finally:
        operators.end()
    helm(kube, "uninstall", "esper")


def kube_deployment(kube: Kube, name: str) -> dict[str, Any]:
    found = kube.custom.list_namespaced_custom_object("apps", "v1", kube.namespace, "deployments")["items"]
    return next(each for each in found if each["metadata"]["name"] == name)


def test_an_upgrade_brings_the_definitions_up_to_date(kube: Kube, tmp_path: Path) -> None:
    older = tmp_path / "esper"
    shutil.copytree(charts.CHART, older)
    file = older / "files" / "crds" / "trainingruns.yaml"
    body = yaml.safe_load(file.read_text())
    columns = [each["name"] for each in body["spec"]["versions"][0].pop("additionalPrinterColumns")]
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    install(kube, chart=older)
    extensions = ApiextensionsV1Api(kube.api)

    def shown() -> list[str]:
        there = extensions.read_custom_resource_definition("trainingruns.esper.dev")
        return [each.name for each in there.spec.versions[0].additional_printer_columns or ()]

    assert "Phase" not in shown()
    kube.run()
    install(kube, verb="upgrade")
    assert shown() == columns
    assert kube.get("trainingruns", "grow")
    helm(kube, "uninstall", "esper")
    assert len(definitions(kube)) == 3, "runs outlive the release"
