"""``dev.enabled`` on a real cluster: no server but those that the chart brings, in pods that only may be restricted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import charts
import real_installation
from clusters import GROUP, VERSION, eventually, install_crds, namespace
from installed import Trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SERVERS = ("postgres", "s3", "pulsar")
PARTS = ("operator", "urza", "dispatcher")
BLUEPRINT = Path(__file__).parents[2] / "crds" / "samples" / "blueprint.yaml"


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with real_installation.node() as node:
        install_crds(node.kubeconfig)
        with namespace(node.kubeconfig) as kube:
            made = Trial(node, kube.namespace)
            made.provide()
            made.install()
            serving(made)
            made.ready(*PARTS, patience=400.0)
            yield made


def serving(trial: Trial) -> None:
    """Wait until each server is ready."""

    def look() -> bool:
        for part in SERVERS:
            status = trial.apps.read_namespaced_stateful_set(f"esper-{part}", trial.namespace).status
            assert status.ready_replicas == 1, f"{part}: {trial.told(part)}"
        return True

    eventually(look, 240.0, 0.5)


def validated(trial: Trial, name: str, **nodes: Any) -> None:
    """Give a blueprint, the project's example with other nodes, and wait until its kernel is built and measured."""
    body = yaml.safe_load(BLUEPRINT.read_text())
    body["metadata"]["name"] = name
    body["spec"]["graph"]["nodes"] |= nodes
    trial.create("blueprints", body)

    def look() -> bool:
        found = trial.custom.list_namespaced_custom_object(
            GROUP, VERSION, trial.namespace, "kernelartifacts", label_selector=f"esper.dev/blueprint={name}"
        )["items"]
        phases = [(each.get("status") or {}).get("phase") for each in found]
        assert phases == ["Validated"], phases
        return True

    eventually(look, 300.0, 0.5)


def servers(trial: Trial) -> dict[str, str]:
    """Uid of each server's pod."""
    return {part: pod.metadata.uid for part in SERVERS for pod in trial.of(part)}


def test_a_kernel_goes_through_database_store_and_broker(trial: Trial) -> None:
    """Told to the library, compiled by one pool and measured by the other."""
    validated(trial, "first")


def test_helms_own_test_trains_a_network(trial: Trial) -> None:
    said = charts.run("test", "esper", "--namespace", trial.namespace, "--timeout", "10m",
                      environment={"KUBECONFIG": trial.kubeconfig})  # fmt: skip
    assert "Phase:          Succeeded" in said, said


def test_an_upgrade_leaves_the_servers_and_their_passwords(trial: Trial) -> None:
    def passwords() -> list[dict[str, str]]:
        return [trial.core.read_namespaced_secret(f"esper-{part}", trial.namespace).data for part in ("postgres", "s3")]

    before = servers(trial), passwords()
    assert len(before[0]) == len(SERVERS)
    trial.install({"operator": {"workers": 4}, "keys": {"generation": 2}}, verb="upgrade")
    trial.ready(*PARTS)
    (job,) = trial.batch.list_namespaced_job(trial.namespace, label_selector="app.kubernetes.io/component=keys").items
    eventually(lambda: trial.job(job.metadata.name).status.succeeded == 1, 120.0)
    assert (servers(trial), passwords()) == before
    validated(trial, "second", back={"op": "conv1d", "inputs": ["fire"], "params": {"out": "w", "kernel": 5,
                                                                                    "init": "zeros"}})  # fmt: skip


def test_data_on_claims_outlives_the_pods(trial: Trial) -> None:
    volumes(trial, "trial")
    on_claims = {"dev": {"persistence": {"enabled": True, "size": "1Gi", "storageClassName": "trial"}}}
    before = servers(trial)
    trial.install(on_claims, verb="upgrade")
    replaced(trial, before)
    # As the notes say: what was on emptyDirs is gone.
    now = {"kubectl.kubernetes.io/restartedAt": "now"}
    for part in ("urza", "dispatcher"):
        body = {"spec": {"template": {"metadata": {"annotations": now}}}}
        trial.apps.patch_namespaced_deployment(f"esper-{part}", trial.namespace, body)
    validated(trial, "third", fire={"op": "act", "inputs": ["widen"], "params": {"fn": "gelu"}})

    before = servers(trial)
    for part in SERVERS:
        trial.core.delete_namespaced_pod(f"esper-{part}-0", trial.namespace)
    replaced(trial, before)
    trial.ready(*PARTS)
    validated(trial, "fourth", fire={"op": "act", "inputs": ["widen"], "params": {"fn": "silu"}})


def replaced(trial: Trial, before: dict[str, str]) -> None:
    """Wait until each server is ready in another pod."""
    eventually(lambda: len(servers(trial)) == len(SERVERS) and not before.items() & servers(trial).items(), 120.0, 0.5)
    serving(trial)


def volumes(trial: Trial, name: str) -> None:
    """A volume of this storage class for each server, as a cluster that provisions would make them."""
    for part in SERVERS:
        path = trial.node.home / f"volume-{part}"
        path.mkdir()
        path.chmod(0o777)
        trial.core.create_persistent_volume({
            "metadata": {"name": f"{trial.namespace}-{part}"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": name, "capacity": {"storage": "1Gi"},
                     "hostPath": {"path": str(path)}, "persistentVolumeReclaimPolicy": "Retain"},
        })  # fmt: skip
