"""An operator on a real control plane without nodes: what it makes, keeps, and leaves to the garbage collector."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from typing import Any

import pytest
import yaml
from kubernetes.client.exceptions import ApiException

from clusters import Kube, Operators, eventually, training_run
from leyline.resources import load

MADE = {"Job/grow", "ConfigMap/grow-manifest"}


def made(kube: Kube, wanted: AbstractSet[str] = MADE) -> dict[str, str]:
    """The run's objects, as soon as all are there."""
    return eventually(lambda: found if (found := kube.owned()).keys() >= wanted else None) or {}


def finish(kube: Kube, phase: str, code: int, name: str = "grow") -> None:
    """Play the node: every pod that is there ends with this exit code."""
    for pod in kube.pods(name):
        if pod.status.phase not in ("Pending", "Running"):
            continue
        state = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        status = {
            "phase": phase,
            "containerStatuses": [
                {
                    "name": "trainer", "state": state, "image": "x", "imageID": "x", "ready": False,
                    "restartCount": 0,
                }
            ],
        }  # fmt: skip
        kube.core.patch_namespaced_pod_status(pod.metadata.name, kube.namespace, {"status": status})


def test_a_run_becomes_a_snapshot_a_service_and_a_job(kube: Kube, operators: Operators) -> None:
    operators.start()
    run = kube.run(resources={"limits": {"nvidia.com/gpu": 1}}, ttlSecondsAfterFinished=60, parallelism=2)
    made(kube, MADE | {"Service/grow"})
    job = kube.job()
    config = kube.core.read_namespaced_config_map("grow-manifest", kube.namespace)
    service = kube.core.read_namespaced_service("grow", kube.namespace)
    for thing in (job, config, service):
        (owner,) = thing.metadata.owner_references
        assert (owner.kind, owner.uid, owner.controller) == ("TrainingRun", run["metadata"]["uid"], True)
        assert not [name for name in thing.metadata.finalizers or () if "esper" in name or "kopf" in name]
    assert service.spec.cluster_ip == "None"
    assert config.immutable
    assert load(yaml.safe_load(config.data["manifest.yaml"])).spec.training.epochs == 2
    assert job.spec.completion_mode == "Indexed"
    assert job.spec.ttl_seconds_after_finished is None
    status = kube.reason("Unschedulable")
    assert status["phase"] == "Pending"
    assert "node" in status["message"]
    assert kube.get("trainingruns", "grow")["metadata"].get("finalizers") is None
    assert not any("kopf" in key for key in kube.get("trainingruns", "grow")["metadata"].get("annotations", {}))


def test_a_run_that_ends_well_keeps_its_result_when_the_job_goes(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(ttlSecondsAfterFinished=0)
    eventually(lambda: kube.pods())
    finish(kube, "Succeeded", 0)
    status = kube.reason("TrainingComplete")
    assert status["phase"] == "Succeeded"
    eventually(lambda: "Job/grow" not in kube.owned())
    time.sleep(2)  # an operator that began it again would have by now
    assert "Job/grow" not in kube.owned()
    assert kube.status()["phase"] == "Succeeded"
    assert kube.condition("Complete")["status"] == "True"
    assert "TrainingComplete" in kube.events()


def test_a_manifest_the_trainer_refuses_is_not_tried_again(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run()
    eventually(lambda: kube.pods())
    finish(kube, "Failed", 2)
    status = kube.reason("BadInput")
    assert (status["phase"], status.get("restarts")) == ("Failed", 1)
    assert "exit code 2" in status["message"]


def test_failures_beyond_the_limit_end_the_run(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(backoffLimit=0)
    eventually(lambda: kube.pods())
    finish(kube, "Failed", 1)
    assert kube.reason("BackoffLimitExceeded")["phase"] == "Failed"
    assert kube.condition("Failed")["status"] == "True"


def test_suspend_and_resume(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run()
    eventually(lambda: kube.pods())
    kube.patch("trainingruns", "grow", {"spec": {"suspend": True}})
    assert kube.reason("Suspended")["phase"] == "Suspended"
    eventually(lambda: not kube.pods())
    kept = kube.owned()
    kube.patch("trainingruns", "grow", {"spec": {"suspend": False}})
    eventually(lambda: kube.pods())
    kube.reason("Unschedulable")
    assert kube.owned() == kept


def test_another_priority_is_taken_up_while_suspended(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(suspend=True)
    kube.reason("Suspended")
    first = kube.job().metadata.uid
    kube.patch("trainingruns", "grow", {"spec": {"priorityClassName": "system-cluster-critical"}})
    again = eventually(lambda: job if (job := kube.job()).metadata.uid != first else None)
    assert again is not None
    assert again.spec.template.spec.priority_class_name == "system-cluster-critical"
    assert again.spec.suspend


def test_a_deadline_ends_the_run(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(activeDeadlineSeconds=1)
    assert kube.reason("DeadlineExceeded")["phase"] == "Failed"


def test_a_run_that_can_not_begin_in_time_is_ended(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(preRunningDeadlineSeconds=2)
    status = kube.reason("PreRunningDeadlineExceeded")
    assert status["phase"] == "Failed"
    assert "node" in status["message"]
    eventually(lambda: not [pod for pod in kube.pods() if not pod.metadata.deletion_timestamp])


def test_a_template_the_api_server_refuses_is_told_in_its_words(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(podTemplate={"spec": {"containers": [{"name": "trainer", "image": ""}]}})
    status = kube.reason("Refused")
    assert "image" in status["message"]
    assert kube.condition("Ready")["status"] == "False"
    assert "Refused" in kube.events()
    kube.run("other")
    kube.reason("Unschedulable", "other")


def test_an_operator_that_has_nothing_to_look_after_goes_on(kube: Kube, operators: Operators) -> None:
    """It compares what the watches told with what there is, also where that is nothing."""
    operator = operators.start(audit_seconds="0.5")
    eventually(operator.leads)
    time.sleep(3.0)
    assert operator.leads(), operator.log.read_text()
    kube.run()
    kube.reason("Unschedulable")


def test_the_objects_of_somebody_else_are_left_alone(kube: Kube, operators: Operators) -> None:
    container = {"name": "x", "image": "registry.example/x:1"}
    kube.batch.create_namespaced_job(
        kube.namespace,
        {
            "metadata": {"name": "grow"},
            "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        },
    )
    theirs = kube.job()
    operators.start()
    kube.run()
    status = kube.reason("NameTaken")
    assert "Job grow" in status["message"]
    assert kube.job().spec.to_dict() == theirs.spec.to_dict()
    assert kube.job().metadata.owner_references is None
    kube.batch.delete_namespaced_job("grow", kube.namespace, propagation_policy="Background")
    made(kube)
    kube.reason("Unschedulable")


def test_what_was_changed_or_deleted_is_put_right(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(parallelism=2)
    before = made(kube, MADE | {"Service/grow"})
    kube.core.patch_namespaced_service("grow", kube.namespace, {"spec": {"selector": {"app": "another"}}})
    kube.core.delete_namespaced_config_map("grow-manifest", kube.namespace)
    kube.batch.patch_namespaced_job("grow", kube.namespace, {"spec": {"suspend": True}})

    def right() -> bool:
        service = kube.core.read_namespaced_service("grow", kube.namespace)
        now = kube.owned()
        return (
            "app" not in service.spec.selector
            and now.keys() >= MADE
            and now["ConfigMap/grow-manifest"] != before["ConfigMap/grow-manifest"]
            and not kube.job().spec.suspend
        )

    eventually(right)


def test_a_run_deleted_while_nobody_looked_takes_its_objects_along(kube: Kube, operators: Operators) -> None:
    operator = operators.start()
    kube.run()
    made(kube)
    operator.kill()
    kube.delete("trainingruns", "grow")
    eventually(lambda: not kube.owned(), patience=60)
    again = kube.run()
    operators.start()
    made(kube)
    assert kube.job().metadata.owner_references[0].uid == again["metadata"]["uid"]


def test_a_run_made_anew_under_the_same_name_gets_objects_of_its_own(kube: Kube, operators: Operators) -> None:
    operators.start()
    for seed in range(3):
        run = kube.run(seed=seed)

        def own(run: dict[str, Any] = run, seed: int = seed) -> bool:
            uid = run["metadata"]["uid"]
            config = kube.core.read_namespaced_config_map("grow-manifest", kube.namespace)
            owners = {each.metadata.owner_references[0].uid for each in (kube.job(), config)}
            return owners == {uid} and load(yaml.safe_load(config.data["manifest.yaml"])).spec.seed == seed

        eventually(own, patience=60)
        kube.delete("trainingruns", "grow")


def test_one_bad_resource_does_not_hold_up_the_others(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run("bad", podTemplate={"spec": {"containers": [{"name": "trainer", "image": ""}]}})
    for number in range(5):
        kube.run(f"good-{number}")
    for number in range(5):
        kube.reason("Unschedulable", f"good-{number}")
    kube.reason("Refused", "bad")


def test_nothing_is_written_when_nothing_changes(kube: Kube, operators: Operators) -> None:
    operator = operators.start()
    kube.run()
    kube.reason("Unschedulable")

    def version() -> str:
        time.sleep(1.0)
        return str(kube.get("trainingruns", "grow")["metadata"]["resourceVersion"])

    settled = eventually(lambda: first if (first := version()) == version() else None)
    operator.stop()
    operators.start()
    time.sleep(4)
    assert version() == settled


@pytest.mark.parametrize("name", ["a" * 50, "x"])
def test_the_longest_and_the_shortest_name(kube: Kube, operators: Operators, name: str) -> None:
    operators.start()
    kube.create("trainingruns", training_run(name, parallelism=20))
    kube.reason("Unschedulable", name)
    eventually(lambda: len(kube.pods(name)) == 20)


def test_a_name_too_long_for_pods_is_refused(kube: Kube) -> None:
    with pytest.raises(ApiException) as refused:
        kube.run("a" * 51)
    assert refused.value.status == 422
