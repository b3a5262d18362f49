"""The operator with the permissions of its table and no others."""

from __future__ import annotations

from pathlib import Path

from clusters import Kube, Operators, eventually, limited
from esper_operator.permissions import LEASE_PERMISSIONS, PERMISSIONS, POOL_PERMISSIONS


def test_the_table_of_permissions_is_enough_for_everything_it_does(
    kube: Kube, operators: Operators, tmp_path: Path
) -> None:
    operator = operators.start(limited(kube, tmp_path, (*PERMISSIONS, *LEASE_PERMISSIONS)))
    kube.run(parallelism=2)
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
    for each in (*PERMISSIONS, *POOL_PERMISSIONS, *LEASE_PERMISSIONS):
        assert "*" not in (*each.resources, *each.verbs, each.group)
        assert "secrets" not in each.resources
