"""``dev.enabled``: servers of the chart's own, found by everybody who needs them and by nobody else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import charts

SERVERS = ("postgres", "s3", "pulsar")
Labels = dict[str, str]


def labels(objects: list[charts.Object], part: str) -> Labels:
    """Of a part's pods."""
    return next(
        pod["metadata"]["labels"] for _, pod in charts.pods(objects)
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == part
    )  # fmt: skip


def server(objects: list[charts.Object], part: str) -> tuple[charts.Object, charts.Object]:
    """A server's StatefulSet, and its one container."""
    owner = charts.named(objects, "StatefulSet", f"esper-{part}")
    (container,) = charts.containers(owner["spec"]["template"])
    return owner, container


@pytest.fixture(scope="module")
def trial() -> list[charts.Object]:
    return charts.rendered(charts.TRIAL)


def test_without_it_nothing_of_it_is_there() -> None:
    for name, values in charts.CASES.items():
        if name != "trial":
            objects = charts.rendered(values)
            assert not charts.of_kind(objects, "StatefulSet", "PersistentVolumeClaim"), name
            assert not any(each["metadata"]["name"].endswith(SERVERS) for each in objects), name


def test_it_needs_nothing_else() -> None:
    said = charts.run("template", "esper", str(charts.CHART), "--set", "dev.enabled=true")
    assert "kind: StatefulSet" in said
    again = charts.run("template", "esper", str(charts.CHART), "--set", "dev.enabled=true")
    assert said == again, "passwords that are rendered would be others each time"


@pytest.mark.parametrize(("path", "value"), [
    ("urza.database.host", "postgres.data.svc"), ("urza.database.existingSecret", "database"),
    ("urza.database.caConfigMap", "ca"), ("urza.objects.bucket", "kernels"),
    ("urza.objects.endpoint", "http://s3:9000"), ("urza.objects.publicEndpoint", "http://s3:9000"),
    ("urza.objects.existingSecret", "objects"), ("urza.objects.caConfigMap", "ca"),
    ("pulsar.serviceUrl", "pulsar://broker:6650"), ("pulsar.adminUrl", "http://broker:8080"),
    ("pulsar.existingSecret", "pulsar"), ("pulsar.adminSecret", "admin"), ("pulsar.caConfigMap", "ca"),
    ("networkPolicies.database", [{"podSelector": {}}]), ("networkPolicies.objects", [{"podSelector": {}}]),
    ("networkPolicies.pulsar", [{"podSelector": {}}]), ("urza.enabled", False), ("pools.scaler", "Keda"),
])  # fmt: skip
def test_other_servers_beside_it_are_refused_by_name(path: str, value: Any) -> None:
    told = value
    for name in reversed(path.split(".")):
        told = {name: told}
    with pytest.raises(charts.Refused, match=rf"{re.escape(path)}: is .*dev\.enabled"):
        charts.rendered(charts.merged(charts.TRIAL, told))


def test_addresses_lead_to_its_services(trial: list[charts.Object]) -> None:
    told = charts.named(trial, "ConfigMap", "esper-urza")["data"]
    assert told["ESPER_URZA_DATABASE_URL"] == "postgresql://esper-postgres.esper.svc:5432/esper?sslmode=disable"
    assert told["ESPER_URZA_S3_ENDPOINT"] == "http://esper-s3.esper.svc:9000"
    assert told["ESPER_URZA_BLOBS"] == "s3://kernels/library/"
    assert "PGSSLROOTCERT" not in told
    owner = charts.named(trial, "Deployment", "esper-dispatcher")
    provision = charts.environment(trial, charts.containers(owner["spec"]["template"])[0])
    assert provision["ESPER_PULSAR_SERVICE_URL"] == "pulsar://esper-pulsar.esper.svc:6650"
    assert provision["ESPER_PULSAR_ADMIN_URL"] == "http://esper-pulsar.esper.svc:8080"
    for part, ports in {"postgres": {5432}, "s3": {9000}, "pulsar": {6650, 8080}}.items():
        service = charts.named(trial, "Service", f"esper-{part}")["spec"]
        owner, container = server(trial, part)
        assert service["selector"] == owner["spec"]["template"]["metadata"]["labels"]
        assert {port["port"] for port in service["ports"]} == ports
        listening = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {listening[port["targetPort"]] for port in service["ports"]} == ports


def test_what_of_a_server_can_be_chosen_is_what_it_serves() -> None:
    chosen = {"urza": {
        "database": {"port": 6543, "name": "kept", "userKey": "u", "passwordKey": "p"},
        "objects": {"region": "eu-1", "accessKeyKey": "a", "secretKeyKey": "s"},
    }}  # fmt: skip
    objects = charts.rendered(charts.merged(charts.TRIAL, chosen))
    told = charts.named(objects, "ConfigMap", "esper-urza")["data"]
    assert ":6543/kept?" in told["ESPER_URZA_DATABASE_URL"]
    script = server(objects, "postgres")[1]["command"][-1]
    assert 'CREATE DATABASE "kept"' in script
    assert "port=6543" in script
    assert "--region eu-1 " in server(objects, "s3")[1]["command"][-1]
    (job,) = charts.of_kind(objects, "Job")
    assert {(each["user"], each["password"]) for each in plan(job)["logins"]} == {("u", "p"), ("a", "s")}


def plan(job: charts.Object) -> Any:
    """What the keys Job is to fill."""
    return json.loads(charts.environment([], job["spec"]["template"]["spec"]["containers"][0])["ESPER_KEYS_PLAN"])


def test_passwords_are_made_in_the_cluster_and_read_by_server_and_library_alike(trial: list[charts.Object]) -> None:
    (job,) = charts.of_kind(trial, "Job")
    made = {each["secret"]: {each["user"], each["password"]} for each in plan(job)["logins"]}
    assert made == {"esper-postgres": {"username", "password"}, "esper-s3": {"access-key", "secret-key"}}
    script = job["spec"]["template"]["spec"]["initContainers"][0]["command"][-1]
    for name in made:
        secret = charts.named(trial, "Secret", name)
        assert not {"data", "stringData"} & set(secret)
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert f"/dev/urandom | od -An -v -tx1 | tr -d ' \\n' > /keys/logins/{name}/password" in script
    read: dict[str, set[str]] = {}
    for owner, pod in charts.pods(trial):
        for container in charts.containers(pod):
            for entry in container.get("env", ()):
                if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["key"] in made[reference["name"]]
                    read.setdefault(reference["name"], set()).add(owner)
    assert read == {"esper-postgres": {"esper-postgres", "esper-urza"}, "esper-s3": {"esper-s3", "esper-urza"}}


def test_each_server_is_reached_by_its_clients_only_and_reaches_nobody(trial: list[charts.Object]) -> None:
    training = {"app.kubernetes.io/managed-by": "esper-operator", "app.kubernetes.io/component": "training"}
    everybody = {part: labels(trial, part) for part in
                 ("operator", "urza", "dispatcher", "tezzeret", "urabrask", "keys", "test", *SERVERS)}  # fmt: skip
    clients = {
        ("postgres", 5432): {"urza"}, ("s3", 9000): {"urza", "dispatcher", "tezzeret", "urabrask", "training"},
        ("pulsar", 6650): {"operator", "dispatcher", "tezzeret", "urabrask", "training"},
        ("pulsar", 8080): {"dispatcher"},
    }  # fmt: skip
    found = {}
    for part in SERVERS:
        policy = charts.named(trial, "NetworkPolicy", f"esper-{part}")["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= everybody[part].items()
        assert (policy["policyTypes"], "egress" in policy) == (["Ingress", "Egress"], False)
        for rule in policy["ingress"]:
            (port,) = rule["ports"]
            allowed = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
            found[part, port["port"]] = {
                name for name, theirs in (everybody | {"training": training}).items()
                if any(selector.items() <= theirs.items() for selector in allowed)
            }  # fmt: skip
    assert found == clients


def test_its_clients_may_go_to_its_pods_and_not_to_any_on_these_ports(trial: list[charts.Object]) -> None:
    ports = {5432: "postgres", 9000: "s3", 6650: "pulsar", 8080: "pulsar"}
    tried = 0
    for policy in charts.of_kind(trial, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            for number in {port["port"] for port in rule.get("ports", ())} & set(ports):
                (peer,) = rule["to"]
                assert peer["podSelector"]["matchLabels"].items() <= labels(trial, ports[number]).items()
                assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "esper"}
                tried += 1
    assert tried >= 10


def test_trainers_of_other_namespaces_are_let_in() -> None:
    values = charts.merged(charts.TRIAL, {"training": {"namespaces": ["team-a", "team-b"]}})
    objects = charts.rendered(values)
    for part in ("s3", "pulsar"):
        rule = charts.named(objects, "NetworkPolicy", f"esper-{part}")["spec"]["ingress"][0]
        (peer,) = [each for each in rule["from"] if "namespaceSelector" in each]
        assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a", "team-b"]


def test_data_goes_with_the_pods_unless_claims_are_asked_for(trial: list[charts.Object]) -> None:
    def stored(objects: list[charts.Object], part: str) -> Any:
        volumes = server(objects, part)[0]["spec"]["template"]["spec"]["volumes"]
        return next(each for each in volumes if each["name"] == "data")

    kept = charts.rendered(charts.merged(
        charts.TRIAL, {"dev": {"persistence": {"enabled": True, "size": "2Gi", "storageClassName": "fast"}}}
    ))  # fmt: skip
    assert len(charts.of_kind(kept, "PersistentVolumeClaim")) == len(SERVERS)
    for part in SERVERS:
        assert stored(trial, part) == {"name": "data", "emptyDir": {}}
        assert stored(kept, part)["persistentVolumeClaim"] == {"claimName": f"esper-{part}"}
        claim = charts.named(kept, "PersistentVolumeClaim", f"esper-{part}")["spec"]
        assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "2Gi")


def test_an_upgrade_of_the_chart_alone_leaves_its_pods(trial: list[charts.Object]) -> None:
    """Their data would go with them."""
    for part in SERVERS:
        told = charts.named(trial, "StatefulSet", f"esper-{part}")["spec"]["template"]["metadata"]
        assert set(told["labels"]) == {
            "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component",
        }  # fmt: skip


def test_notes_say_that_it_is_for_a_trial() -> None:
    words = ("install", "esper", str(charts.CHART), "--namespace", "ops", "--dry-run=client")
    said = charts.run(*words, "--set", "dev.enabled=true").partition("NOTES:")[2]
    assert "dev.enabled is for a trial only" in said
    assert "kubectl -n ops rollout restart deployment/esper-urza deployment/esper-dispatcher" in said
    kept = charts.run(*words, "--set", "dev.enabled=true", "--set", "dev.persistence.enabled=true")
    assert "on claims that `helm uninstall` removes" in kept
    assert "rollout restart" not in kept
