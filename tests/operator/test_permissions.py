"""The operator with the permissions of its table and no others."""

from __future__ import annotations

from pathlib import Path

import yaml

from clusters import Kube, Operators, eventually
from esper_operator.permissions import LEASE_PERMISSIONS, PERMISSIONS


def limited(kube: Kube, folder: Path) -> str:
    """A kubeconfig of a service account that has these permissions in its namespace."""
    namespace = kube.namespace
    kube.core.create_namespaced_service_account(namespace, {"metadata": {"name": "operator"}})
    rules = [each.rule() for each in (*PERMISSIONS, *LEASE_PERMISSIONS)]
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


def test_the_table_of_permissions_is_enough_for_everything_it_does(
    kube: Kube, operators: Operators, tmp_path: Path
) -> None:
    operator = operators.start(limited(kube, tmp_path))
    kube.run()
    kube.reason("Unschedulable")
    kube.patch("trainingruns", "grow", {"spec": {"suspend": True}})
    kube.reason("Suspended")
    first = kube.job().metadata.uid
    kube.patch("trainingruns", "grow", {"spec": {"priorityClassName": "system-cluster-critical"}})
    eventually(lambda: kube.job().metadata.uid != first)
    kube.core.patch_namespaced_service("grow", kube.namespace, {"spec": {"selector": {"app": "another"}}})
    eventually(lambda: "app" not in kube.core.read_namespaced_service("grow", kube.namespace).spec.selector)
    kube.run("short", activeDeadlineSeconds=1)
    kube.reason("DeadlineExceeded", "short")
    eventually(lambda: "DeadlineExceeded" in kube.events("short"))
    assert operator.stop() == 0
    assert "forbidden" not in operator.log.read_text().lower()


def test_no_permission_is_for_everything_or_for_secrets() -> None:
    for each in (*PERMISSIONS, *LEASE_PERMISSIONS):
        assert "*" not in (*each.resources, *each.verbs, each.group)
        assert "secrets" not in each.resources
