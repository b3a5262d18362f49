"""Pools on a real control plane, with the library's real service; without a node: pods end when a test says so."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

import charts
import libraries
from clusters import CRDS, Kube, Operators, eventually, limited
from esper.urza import SqlLibrary, State
from esper_operator.permissions import LEASE_PERMISSIONS, PERMISSIONS, POOL_PERMISSIONS

SCALING: dict[str, Any] = {"max": 3, "perPod": {"fast": 2, "standard": 1, "aggressive": 1}}


@pytest.fixture
def scaling(told: dict[str, str], kube: Kube) -> dict[str, str]:
    """Settings of an operator that scales pools."""
    return told | {"pools_namespace": kube.namespace, "pools_seconds": "0.2"}


@pytest.fixture
def pools(kube: Kube) -> None:
    """The chart's pools."""
    values = {"tezzeret": SCALING, "urabrask": SCALING, "pools": {"hardware": libraries.HARDWARE}}
    objects = charts.rendered(values, namespace=kube.namespace)
    for body in charts.of_kind(objects, "ServiceAccount"):
        kube.core.create_namespaced_service_account(kube.namespace, body)
    for body in charts.of_kind(objects, "PodTemplate"):
        kube.core.create_namespaced_pod_template(kube.namespace, body, field_validation="Strict")


_FACTORS = itertools.count(1)


def ask(library: SqlLibrary, number: int, strategy: str = "fast") -> list[str]:
    """Enter so many artifacts that are to be built."""
    made = []
    for _ in range(number):
        factor = next(_FACTORS)
        library.register_blueprint(f"mlp{factor}", libraries.design(factor), 0.1)
        made.append(libraries.enter(library, f"mlp{factor}", libraries.design(factor), strategy=strategy))
    return made


def jobs(kube: Kube, pool: str = "esper-tezzeret") -> dict[str, Any]:
    found = kube.batch.list_namespaced_job(kube.namespace, label_selector=f"esper.dev/pool={pool}").items
    return {each.metadata.name: each for each in found}


def parallelism(kube: Kube, pool: str = "esper-tezzeret") -> dict[str, int]:
    """Pods by Job, of those that have not ended."""
    ended = {"Complete", "Failed"}
    return {
        name: each.spec.parallelism
        for name, each in jobs(kube, pool).items()
        if not ended & {one.type for one in each.status.conditions or ()}
    }


def become(kube: Kube, name: str, wanted: dict[str, int], pool: str = "esper-tezzeret") -> None:
    """Wait until a pool's Jobs are these."""

    def look() -> bool:
        found = parallelism(kube, pool)
        assert found == wanted, f"{name}: {found}"
        return True

    eventually(look)


def end_pods(kube: Kube, job: str, number: int = 1) -> None:
    """Have so many pods of a Job end well, as pods do that find no work."""
    selector = f"batch.kubernetes.io/job-name={job}"
    there = [
        each.metadata.name
        for each in kube.core.list_namespaced_pod(kube.namespace, label_selector=selector).items
        if each.status.phase != "Succeeded"
    ]
    assert len(there) >= number
    for name in there[:number]:
        kube.core.patch_namespaced_pod_status(name, kube.namespace, {"status": {"phase": "Succeeded"}})


def pods(kube: Kube, job: str) -> int:
    """Pods of a Job that have not ended."""
    return int(kube.batch.read_namespaced_job(job, kube.namespace).status.active or 0)


def events(kube: Kube) -> list[str]:
    about = "involvedObject.kind=PodTemplate"
    return [each.reason for each in kube.core.list_namespaced_event(kube.namespace, field_selector=about).items]


@pytest.mark.usefixtures("pools")
def test_a_pool_grows_with_what_waits_up_to_its_maximum_and_is_empty_again_at_the_end(
    kube: Kube, operators: Operators, library: SqlLibrary, scaling: dict[str, str], tmp_path: Path
) -> None:
    operators.start(**scaling)
    asked = ask(library, 1)
    become(kube, "one waits", {"esper-tezzeret-1": 1})
    asked += ask(library, 2)
    become(kube, "three wait", {"esper-tezzeret-1": 2})
    asked += ask(library, 40)
    become(kube, "many wait", {"esper-tezzeret-1": 3})
    eventually(lambda: pods(kube, "esper-tezzeret-1") == 3)
    (spec,) = {each.spec.template.spec.service_account_name for each in jobs(kube).values()}
    assert spec == "esper-tezzeret"

    # One finds nothing and ends while the others work: the Job makes no more pods, so what still waits needs another.
    end_pods(kube, "esper-tezzeret-1")
    become(kube, "one has ended", {"esper-tezzeret-1": 3, "esper-tezzeret-2": 1})
    assert not jobs(kube, "esper-urabrask")

    for each in asked:
        libraries.bring_to(library, tmp_path, each, State.BUILT)
    become(kube, "all are built", {"esper-urabrask-1": 3}, "esper-urabrask")
    end_pods(kube, "esper-tezzeret-1", 2)
    eventually(lambda: pods(kube, "esper-tezzeret-2") == 1)
    end_pods(kube, "esper-tezzeret-2")
    become(kube, "nothing is to be built", {})
    assert len(jobs(kube)) == 2
    assert events(kube).count("PoolScaledUp") >= 4


@pytest.mark.usefixtures("pools")
def test_an_operator_that_is_killed_again_and_again_makes_no_second_job(
    kube: Kube, operators: Operators, library: SqlLibrary, scaling: dict[str, str]
) -> None:
    ask(library, 3)
    for _ in range(4):
        operator = operators.start(**scaling, identity="one")
        eventually(operator.leads)
        become(kube, "three wait", {"esper-tezzeret-1": 2})
        operator.kill()
    ask(library, 40)
    operators.start(**scaling, identity="one")
    become(kube, "many wait", {"esper-tezzeret-1": 3})
    assert set(jobs(kube)) == {"esper-tezzeret-1"}


@pytest.mark.usefixtures("pools")
def test_jobs_of_an_older_template_give_way_and_all_go_with_it(
    kube: Kube, operators: Operators, library: SqlLibrary, scaling: dict[str, str]
) -> None:
    operators.start(**scaling)
    ask(library, 40)
    become(kube, "many wait", {"esper-tezzeret-1": 3})
    spec = {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}
    kube.core.patch_namespaced_pod_template("esper-tezzeret", kube.namespace, spec)

    def replaced() -> bool:
        found = jobs(kube)
        assert set(found) == {"esper-tezzeret-2"}
        newer = found["esper-tezzeret-2"]
        assert newer.spec.template.spec.termination_grace_period_seconds == 1
        assert newer.spec.parallelism == 3
        return True

    eventually(replaced)
    kube.core.delete_namespaced_pod_template("esper-tezzeret", kube.namespace)
    eventually(lambda: not jobs(kube))


@pytest.mark.usefixtures("pools")
def test_the_rights_of_the_tables_are_enough(
    kube: Kube, operators: Operators, library: SqlLibrary, scaling: dict[str, str], tmp_path: Path
) -> None:
    rights = (*PERMISSIONS, *LEASE_PERMISSIONS, *POOL_PERMISSIONS)
    operator = operators.start(limited(kube, tmp_path, rights), **scaling)
    ask(library, 40)
    become(kube, "many wait", {"esper-tezzeret-1": 3})
    kube.core.patch_namespaced_pod_template(
        "esper-tezzeret", kube.namespace, {"template": {"spec": {"priorityClassName": "system-cluster-critical"}}}
    )
    eventually(lambda: "esper-tezzeret-1" not in jobs(kube))
    eventually(lambda: "PoolScaledUp" in events(kube))
    assert operator.stop() == 0
    assert "forbidden" not in operator.log.read_text().lower()


@pytest.mark.usefixtures("pools")
def test_an_artifact_that_no_pool_takes_says_so(
    kube: Kube, operators: Operators, library: SqlLibrary, scaling: dict[str, str]
) -> None:
    operators.start(**scaling)
    body = dict(yaml.safe_load((CRDS / "samples/blueprint.yaml").read_text()))
    body["spec"]["targets"] = [body["spec"]["targets"][0] | {"hardware": "gpu-sm90"}]
    kube.create("blueprints", body)

    def look() -> bool:
        listing = kube.custom.list_namespaced_custom_object("esper.dev", "v1alpha1", kube.namespace, "kernelartifacts")
        assert len(listing["items"]) == 1
        (condition,) = listing["items"][0]["status"]["conditions"]
        assert condition["reason"] == "NoPoolForHardware", condition
        assert "gpu-sm90" in condition["message"]
        return True

    eventually(look)
    assert not jobs(kube)
