"""Pools in the chart: what the operator reads is what the chart writes, and KEDA's objects are of the same pods."""

from __future__ import annotations

from typing import Any

import pytest

import charts
from esper_operator.keys import WORKER
from esper_operator.plan.pool import Pool, read_pool
from esper_operator.plan.pools import Waiting, job_of, plan
from esper_operator.settings import PREFIX
from leyline.errors import IdentityError
from leyline.identity import MAX_HARDWARE, require_hardware
from leyline.resources.enums import KernelPhase
from leyline.topics import BENCHMARK, COMPILE, TOPICS, pool_subscription

NAMES = ("tezzeret", "urabrask")
HARDWARE = "x86_64-avx512"
KEDA: charts.Object = {"pools": {"scaler": "Keda", "hardware": HARDWARE}}


def template(name: str, values: charts.Object | None = None) -> charts.Object:
    return charts.named(charts.rendered(values), "PodTemplate", f"esper-{name}")


def pool(name: str, values: charts.Object | None = None) -> Pool:
    """As the operator reads it, once the API server has it."""
    raw = template(name, values)
    return read_pool(raw | {"metadata": raw["metadata"] | {"uid": "u", "generation": 1}})


@pytest.mark.parametrize("name", NAMES)
def test_the_operator_reads_the_pools_of_the_chart(name: str) -> None:
    values = {"pools": {"hardware": "x86_64-avx512"}, name: {"min": 1, "max": 7, "perPod": {"fast": 3}}}
    found = pool(name, values)
    assert (found.worker, found.name, found.namespace) == (name, f"esper-{name}", "esper")
    scaling = found.scaling
    assert (scaling.min, scaling.max, scaling.per_pod.fast, scaling.hardware) == (1, 7, 3, "x86_64-avx512")
    assert scaling.deadline_seconds.aggressive >= scaling.deadline_seconds.fast
    assert template(name)["metadata"]["labels"][WORKER] == name


@pytest.mark.parametrize("name", NAMES)
def test_pools_are_empty_when_nothing_waits_and_end_when_they_are_idle(name: str) -> None:
    found = pool(name, {name: {"idleSeconds": 42}})
    assert not plan(found, [], []).actions
    phase = KernelPhase.PENDING_BUILD if name == "tezzeret" else KernelPhase.BUILT
    assert plan(found, [Waiting(phase, "fast", "x86_64-avx2", 1000)], []).wanted == found.scaling.max
    job = job_of(found, 1, 2, 60)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["esper", name, "work", "--idle-exit", "42"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == name
    assert "app.kubernetes.io/managed-by" not in job["metadata"]["labels"]


def test_a_build_may_last_as_long_as_its_strategy_allows() -> None:
    from esper.tezzeret.building import TIMEOUTS

    told = pool("tezzeret")
    for strategy, seconds in TIMEOUTS.items():
        assert told.scaling.deadline_seconds.of(strategy) >= 2 * seconds, strategy
    assert told.template["spec"]["terminationGracePeriodSeconds"] > TIMEOUTS["standard"]


def test_nodes_and_priority_are_those_of_the_values() -> None:
    values = {
        "urabrask": {"nodeSelector": {"nvidia.com/gpu.product": "H100"}, "priorityClassName": "kernels",
                     "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                     "resources": {"limits": {"nvidia.com/gpu": 1}}},
    }  # fmt: skip
    spec = pool("urabrask", values).template["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}
    assert spec["priorityClassName"] == "kernels"
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def scaled(name: str, values: charts.Object | None = None) -> dict[str, Any]:
    told = charts.merged(KEDA, values or {})
    spec = charts.named(charts.rendered(told), "ScaledJob", f"esper-{name}")["spec"]
    return dict(spec)


@pytest.mark.parametrize(("name", "topic"), [("tezzeret", COMPILE), ("urabrask", BENCHMARK)])
def test_keda_scales_the_same_pods_by_the_brokers_queue(name: str, topic: str) -> None:
    spec = scaled(name, {name: {"min": 1, "max": 9, "perPod": {"standard": 5}}, "pulsar": {"tenant": "lab"}})
    same = {"pulsar": {"tenant": "lab"}, "pools": {"hardware": HARDWARE}}
    assert spec["jobTargetRef"]["template"] == template(name, same)["template"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 9)
    (trigger,) = spec["triggers"]
    assert trigger == {
        "type": "pulsar",
        "metadata": {
            "adminURL": "https://broker.data.svc:8443", "topic": f"persistent://lab/default/{topic}",
            "subscription": pool_subscription(TOPICS[topic], HARDWARE), "msgBacklogThreshold": "5",
        },
    }  # fmt: skip


@pytest.mark.parametrize("hardware", ["", None])
def test_keda_has_to_be_told_the_hardware(hardware: str | None) -> None:
    with pytest.raises(charts.Refused, match=r"pools\.hardware"):
        charts.rendered({"pools": {"scaler": "Keda", "hardware": hardware}})
    with pytest.raises(charts.Refused, match=r"pools\.hardware: must be said with pools\.scaler Keda"):
        charts.rendered({"pools": {"scaler": "Keda"}})


@pytest.mark.parametrize(
    "hardware", ["X86", "-avx2", "x86--avx2", "x86_64-", "a/b", "a b", "x" * (MAX_HARDWARE + 1), "7x"]
)
def test_what_is_no_hardware_target_is_refused(hardware: str) -> None:
    with pytest.raises(IdentityError):
        require_hardware(hardware)
    with pytest.raises(charts.Refused, match="hardware"):
        charts.rendered({"pools": {"hardware": hardware}})


@pytest.mark.parametrize("scaler", ["Operator", "Keda", "None"])
def test_queues_of_the_pools_are_made_ahead(scaler: str) -> None:
    def provision(pools: charts.Object) -> list[str]:
        found = dict(charts.pods(charts.rendered({"pools": pools})))["esper-dispatcher"]["spec"]["initContainers"]
        return list(next(each for each in found if each["name"] == "provision")["command"])

    assert provision({"scaler": scaler, "hardware": HARDWARE})[3:] == ["--hardware", HARDWARE]
    if scaler != "Keda":
        assert provision({"scaler": scaler}) == ["esper", "oona", "provision"]


def test_keda_shows_the_broker_the_administrators_token_or_the_only_one() -> None:
    for pulsar, secret in (
        ({"existingSecret": "pulsar"}, ("pulsar", "token")),
        ({"existingSecret": "pulsar", "adminSecret": "admin", "adminTokenKey": "key"}, ("admin", "key")),
    ):
        told: charts.Object = KEDA | {"pulsar": pulsar | {"caConfigMap": "ca"}}
        objects = charts.rendered(told)
        found = charts.named(objects, "TriggerAuthentication", "esper-pools")["spec"]
        assert found["secretTargetRef"] == [{"parameter": "bearerToken", "name": secret[0], "key": secret[1]}]
        assert found["configMapTargetRef"] == [{"parameter": "ca", "name": "ca", "key": "ca.crt"}]
        trigger = scaled("tezzeret", told)["triggers"][0]
        assert (trigger["metadata"]["authModes"], trigger["authenticationRef"]) == ("bearer", {"name": "esper-pools"})
    assert not charts.of_kind(charts.rendered(KEDA), "TriggerAuthentication")


@pytest.mark.parametrize(("scaler", "kinds", "scales"), [
    ("Operator", {"PodTemplate"}, True), ("None", {"PodTemplate"}, False), ("Keda", {"ScaledJob"}, False),
])  # fmt: skip
def test_only_one_scales(scaler: str, kinds: set[str], scales: bool) -> None:
    objects = charts.rendered({"pools": {"scaler": scaler, "hardware": HARDWARE}})
    assert {each["kind"] for each in charts.of_kind(objects, "PodTemplate", "ScaledJob")} == kinds
    (container,) = dict(charts.pods(objects))["esper-operator"]["spec"]["containers"]
    assert (f"{PREFIX}POOLS_NAMESPACE" in charts.environment(objects, container)) == scales


def test_without_a_library_there_are_no_pools() -> None:
    objects = charts.rendered(charts.CASES["operator alone"])
    assert not charts.of_kind(objects, "PodTemplate", "ScaledJob")
