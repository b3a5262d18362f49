"""Training runs whose pods really run, on a real node: what their status says of each way to end, or not to begin."""

from __future__ import annotations

from typing import Any

import pytest

from clusters import Kube, Operators, eventually

pytestmark = pytest.mark.slow


def doing(what: str, **container: Any) -> dict[str, Any]:
    """A pod template whose trainer behaves in a known way."""
    return {
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "trainer", "env": [{"name": "DO", "value": what}], **container}],
        }
    }


def test_a_run_that_ends_well(kube: Kube, operators: Operators) -> None:
    operators.start(urza_url="http://urza.example:8460")
    kube.run(podTemplate=doing("sleep 3"), ttlSecondsAfterFinished=1)
    running = kube.reason("Training")
    assert running["phase"] == "Running"
    (pod,) = kube.pods()
    assert pod.spec.hostname == "grow-0"
    assert pod.spec.subdomain is None  # a single pod looks for nobody by name
    log = eventually(lambda: kube.core.read_namespaced_pod_log(pod.metadata.name, kube.namespace))
    assert "train --manifest /etc/esper/manifest.yaml" in str(log)
    ended = kube.reason("TrainingComplete")
    assert ended["startedAt"] <= ended["finishedAt"]
    eventually(lambda: "Job/grow" not in kube.owned())
    assert kube.status()["phase"] == "Succeeded"
    assert [each for each in kube.events() if each in ("Training", "TrainingComplete")] == [
        "Training",
        "TrainingComplete",
    ]


def test_pods_run_where_only_restricted_ones_may(kube: Kube, operators: Operators) -> None:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.core.patch_namespace(kube.namespace, {"metadata": {"labels": level}})
    operators.start(urza_url="http://urza.example:8460")
    kube.run(podTemplate=doing("sleep 1"))
    kube.reason("TrainingComplete")


def test_two_ranks_have_names(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(parallelism=2, podTemplate=doing("wait", command=["esper"]))
    kube.reason("Training")
    slices = kube.custom.list_namespaced_custom_object("discovery.k8s.io", "v1", kube.namespace, "endpointslices")
    names = {each.get("hostname") for item in slices["items"] for each in item["endpoints"]}
    assert names == {"grow-0", "grow-1"}


def test_a_refused_manifest(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(podTemplate=doing("exit 2"))
    assert kube.reason("BadInput")["phase"] == "Failed"


def test_a_run_that_fails_again_and_again(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(backoffLimit=1, podTemplate=doing("exit 1"))
    again = kube.reason("Restarting")
    assert "exit code 1" in again["message"]
    ended = kube.reason("BackoffLimitExceeded", patience=90)
    assert (ended["phase"], ended["restarts"]) == ("Failed", 2)


def test_an_image_that_can_not_be_had(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(image="localhost/nowhere:1", podTemplate=doing("exit 0"))
    status = kube.reason("ImagePullFailed")
    assert status["phase"] == "Pending"
    assert "localhost/nowhere:1" in status["message"]
    assert kube.condition("Scheduled")["status"] == "True"


def test_a_secret_that_is_missing(kube: Kube, operators: Operators) -> None:
    operators.start(pod_env_secrets='["broker"]')
    kube.run(podTemplate=doing("exit 0"))
    assert "broker" in kube.reason("ContainerRefused")["message"]
    kube.core.create_namespaced_secret(kube.namespace, {"metadata": {"name": "broker"}, "stringData": {"A": "b"}})
    kube.reason("TrainingComplete", patience=120)


def test_a_gpu_that_is_not_there(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(resources={"limits": {"nvidia.com/gpu": 1}}, podTemplate=doing("exit 0"))
    status = kube.reason("Unschedulable")
    assert "nvidia.com/gpu" in status["message"]
    assert kube.condition("Scheduled")["status"] == "False"


def test_a_deadline_that_passes_while_it_runs(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(activeDeadlineSeconds=5, podTemplate=doing("wait"))
    kube.reason("Training")
    assert kube.reason("DeadlineExceeded")["phase"] == "Failed"
    eventually(lambda: not kube.pods())


def test_suspended_and_resumed_while_it_runs(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(podTemplate=doing("wait"))
    kube.reason("Training")
    kube.patch("trainingruns", "grow", {"spec": {"suspend": True}})
    suspended = kube.reason("Suspended")
    assert not [pod for pod in kube.pods() if pod.status.phase in ("Pending", "Running")]
    eventually(lambda: not kube.pods())
    kube.patch("trainingruns", "grow", {"spec": {"suspend": False}})
    resumed = kube.reason("Training")
    assert resumed["startedAt"] == suspended["startedAt"]
    assert resumed.get("restarts", 0) == 0


def test_a_pod_that_is_evicted_is_nobodys_failure(kube: Kube, operators: Operators) -> None:
    operators.start()
    kube.run(backoffLimit=0, podTemplate=doing("wait"))
    kube.reason("Training")
    (pod,) = kube.pods()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod.metadata.name}}
    kube.core.create_namespaced_pod_eviction(pod.metadata.name, kube.namespace, eviction)
    eventually(lambda: [each for each in kube.pods() if each.metadata.uid != pod.metadata.uid])
    kube.reason("Training")
    assert kube.status()["phase"] == "Running"


def test_an_operator_that_was_away_tells_what_happened_meanwhile(kube: Kube, operators: Operators) -> None:
    first = operators.start(identity="one")
    kube.run(ttlSecondsAfterFinished=1, podTemplate=doing("sleep 2"))
    kube.reason("Training")
    first.kill()
    eventually(lambda: kube.job().status.completion_time)
    operators.start(identity="one")
    assert kube.reason("TrainingComplete")["phase"] == "Succeeded"
    eventually(lambda: "Job/grow" not in kube.owned())
