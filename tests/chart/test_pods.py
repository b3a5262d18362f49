"""Every pod of the chart: restricted, told only what its program understands, and without more rights than it needs."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import yaml

import charts
from esper.process import ProcessSettings, load_settings
from esper.urza.service.settings import ServiceSettings
from esper.weatherlight.settings import DispatchSettings, TezzeretSettings, TrainSettings, UrabraskSettings
from esper_operator.plan.kernel_artifact import Pools
from esper_operator.plan.pod import template
from esper_operator.settings import PREFIX, OperatorSettings
from esper_operator.settings import load as load_operator
from leyline.resources import load

SAFE_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


@pytest.fixture(scope="module", params=charts.CASES)
def objects(request: pytest.FixtureRequest) -> list[charts.Object]:
    return charts.rendered(charts.CASES[request.param])


def violations(pod: charts.Object) -> list[str]:
    """What the restricted Pod Security Standard would refuse (each of its controls, in its order)."""
    spec = pod["spec"]
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(name)]
    found += [
        f"volume {each['name']}" for each in spec.get("volumes", ()) if not (set(each) - {"name"}) <= SAFE_VOLUMES
    ]
    outer: dict[str, Any] = spec.get("securityContext") or {}
    found += [f"pod {name}" for name in ("sysctls", "seLinuxOptions", "windowsOptions") if name in outer]
    for container in charts.containers(pod):
        inner = container.get("securityContext") or {}
        name = container["name"]
        if inner.get("privileged") or inner.get("procMount", "Default") != "Default":
            found.append(f"{name}: privileged")
        if inner.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: privilege escalation")
        if not inner.get("runAsNonRoot", outer.get("runAsNonRoot")):
            found.append(f"{name}: may be root")
        if inner.get("runAsUser", outer.get("runAsUser")) == 0:
            found.append(f"{name}: is root")
        if (inner.get("seccompProfile") or outer.get("seccompProfile") or {}).get("type") not in (
            "RuntimeDefault", "Localhost",
        ):  # fmt: skip
            found.append(f"{name}: seccomp")
        capabilities = inner.get("capabilities") or {}
        if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities")
        found += [f"{name}: host port" for port in container.get("ports", ()) if port.get("hostPort")]
    return found


def test_every_pod_is_restricted(objects: list[charts.Object]) -> None:
    found = {name: violations(pod) for name, pod in charts.pods(objects)}
    assert found
    assert not any(found.values()), found


def test_a_pod_that_is_not_restricted_is_seen() -> None:
    loose = {"spec": {"hostPID": True, "volumes": [{"name": "v", "hostPath": {}}], "containers": [{"name": "c"}]}}
    assert violations(loose) == [
        "hostPID", "volume v", "c: privilege escalation", "c: may be root", "c: seccomp", "c: capabilities",
    ]  # fmt: skip


def test_nothing_is_written_outside_of_volumes_and_nothing_is_unbounded(objects: list[charts.Object]) -> None:
    for name, pod in charts.pods(objects):
        for container in charts.containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"], name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
        mounts = {each["name"] for each in pod["spec"].get("volumes", ())}
        for container in charts.containers(pod):
            assert {each["name"] for each in container.get("volumeMounts", ())} <= mounts, name


def test_services_do_not_become_settings(objects: list[charts.Object]) -> None:
    """A Service called esper-urza would set ESPER_URZA_PORT=tcp://… in every pod beside it."""
    assert all(pod["spec"]["enableServiceLinks"] is False for _, pod in charts.pods(objects))


def audiences(pod: charts.Object) -> set[str]:
    """For whom the pod's tokens are; ``api`` is the API server."""
    found = {"api"} if pod["spec"]["automountServiceAccountToken"] else set()
    for volume in pod["spec"].get("volumes", ()):
        for source in volume.get("projected", {}).get("sources", ()):
            if "serviceAccountToken" in source:
                found.add(source["serviceAccountToken"].get("audience", "api"))
    return found


def test_tokens_are_for_those_who_need_them(objects: list[charts.Object]) -> None:
    """The library reads the issuer's public keys with a token of an account without rights."""
    accounts = charts.of_kind(objects, "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts)
    used = {pod["spec"]["serviceAccountName"] for _, pod in charts.pods(objects)}
    assert used == {each["metadata"]["name"] for each in accounts}
    wanted = {
        "operator": {"api", "esper-urza"}, "urza": {"api"}, "keys": {"api"}, "test": {"api"},
        "dispatcher": {"esper-urza"}, "tezzeret": {"esper-urza"}, "urabrask": {"esper-urza"},
        "postgres": set(), "s3": set(), "pulsar": set(),
    }  # fmt: skip
    if "esper-urza" not in dict(charts.pods(objects)):
        wanted["operator"] = {"api"}
    for name, pod in charts.pods(objects):
        assert audiences(pod) == wanted[pod["metadata"]["labels"]["app.kubernetes.io/component"]], name
    bound = {subject["name"] for each in charts.of_kind(objects, "RoleBinding", "ClusterRoleBinding")
             for subject in each["subjects"]}  # fmt: skip
    assert bound <= {"esper-operator", "esper-keys", "esper-test"}


def test_long_lived_pods_are_probed_and_labelled_as_their_owners_expect(objects: list[charts.Object]) -> None:
    for owner in charts.of_kind(objects, "Deployment"):
        template = owner["spec"]["template"]
        assert owner["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert template["spec"]["containers"][0][probe]["httpGet"]["port"] in ports


def test_each_part_survives_a_drain_one_pod_at_a_time(objects: list[charts.Object]) -> None:
    budgets = [each["spec"]["selector"]["matchLabels"] for each in charts.of_kind(objects, "PodDisruptionBudget")]
    deployed = {each["metadata"]["name"] for each in charts.of_kind(objects, "Deployment")}
    for name, pod in charts.pods(objects):
        labels = pod["metadata"]["labels"]
        # One for pods of Jobs would keep their nodes from ever being drained.
        wanted = int(name in deployed)
        assert sum(selector.items() <= labels.items() for selector in budgets) == wanted, name


def test_passwords_come_from_the_named_secrets_and_are_nowhere_else() -> None:
    objects = charts.rendered(charts.EVERYTHING)
    found = {}
    for _, pod in charts.pods(objects):
        for container in charts.containers(pod):
            for entry in container.get("env", ()):
                reference = entry.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    found[entry["name"]] = (reference["name"], reference["key"])
    assert found == {
        "PGUSER": ("urza-database", "username"),
        "PGPASSWORD": ("urza-database", "password"),
        "ESPER_URZA_S3_ACCESS_KEY": ("urza-objects", "access-key"),
        "ESPER_URZA_S3_SECRET_KEY": ("urza-objects", "secret-key"),
    }
    for secret in charts.of_kind(objects, "Secret"):
        assert not {"data", "stringData"} & set(secret), "a key in a manifest is in the release's history for ever"


def mounted(pod: charts.Object) -> dict[str, set[str]]:
    """Secrets that each container of a pod can read as files."""
    volumes = {each["name"]: each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each}
    return {
        container["name"]: {volumes[each["name"]] for each in container["volumeMounts"] if each["name"] in volumes}
        for container in charts.containers(pod)
    }


def test_keys_are_mounted_only_where_they_sign() -> None:
    pods = dict(charts.pods(charts.rendered(charts.EVERYTHING)))
    assert mounted(pods["esper-dispatcher"]) == {
        "provision": {"pulsar", "pulsar-admin"}, "dispatcher": {"pulsar", "esper-bus-dispatcher"},
    }  # fmt: skip
    assert mounted(pods["esper-tezzeret"])["tezzeret"] == {"pulsar", "esper-bus-tezzeret", "esper-signing-built"}
    assert mounted(pods["esper-urabrask"])["urabrask"] == {"pulsar", "esper-bus-urabrask", "esper-signing-validated"}
    assert mounted(pods["esper-operator"])["operator"] == {"pulsar"}
    assert not any(mounted(pods["esper-urza"]).values())


PROCESSES: dict[str, type[ProcessSettings]] = {
    "dispatcher": DispatchSettings, "tezzeret": TezzeretSettings, "urabrask": UrabraskSettings,
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("case", ["least", "everything"])
def test_processes_understand_their_environment(name: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = charts.rendered(charts.CASES[case])
    pod = dict(charts.pods(objects))[f"esper-{name}"]
    (container,) = pod["spec"]["containers"]
    for variable, value in charts.environment(objects, container).items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(PROCESSES[name])
    assert settings.library.url == "http://esper-urza.esper.svc:8460"
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 8470)
    assert (settings.pulsar.token_file is None) == (case == "least")
    places = [each["mountPath"] for each in container["volumeMounts"]]
    for path in files_of(settings):
        assert any(path.startswith(f"{place}/") or path == place for place in places), path


def files_of(settings: ProcessSettings) -> list[str]:
    """Every file that the settings name."""
    found = [settings.library.token_file, settings.pulsar.token_file, settings.pulsar.tls_ca_file]
    found += [getattr(settings, name) for name in type(settings).model_fields if name.endswith(("_file", "_dir"))]
    return [str(path) for path in found if path is not None]


RUN = """
apiVersion: esper.dev/v1alpha1
kind: TrainingRun
metadata: {name: grow, namespace: team-a, uid: run-uid}
spec:
  task: {ref: "esper.tasks.mnist1d:task"}
  slots: [{path: "blocks.*"}]
  training: {epochs: 2}
"""


@pytest.mark.parametrize("case", ["least", "everything"])
def test_training_pods_have_what_the_trainer_asks_for(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the chart's values through the operator's settings and its plan to the trainer's own settings."""
    objects = charts.rendered(charts.CASES[case])
    (container,) = charts.named(objects, "Deployment", "esper-operator")["spec"]["template"]["spec"]["containers"]
    told = charts.environment(objects, container)
    fields = {f"{PREFIX}{name.upper()}" for name in OperatorSettings.model_fields}
    assert {name for name in told if name.startswith(PREFIX)} <= fields
    assert told["ESPER_PULSAR_SERVICE_URL"] == "pulsar+ssl://broker.data.svc:6651"
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    operator = OperatorSettings()
    assert operator.lease_namespace == "<kept elsewhere>"
    pod = template(load(RUN), operator.pods())
    assert not violations(pod)
    names = [each["name"] for each in pod["spec"]["volumes"]]
    assert len(set(names)) == len(names)
    (trainer,) = pod["spec"]["containers"]
    assert {each["name"] for each in trainer["volumeMounts"]} <= set(names)
    for variable in told:
        monkeypatch.delenv(variable)
    for entry in trainer["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    settings = load_settings(TrainSettings)
    assert settings.library.url == operator.urza_url
    places = [each["mountPath"] for each in trainer["volumeMounts"]]
    for path in files_of(settings):
        assert any(path.startswith(f"{place}/") or path == place for place in places), path
    if case == "everything":
        assert settings.checkpoints.url == "s3://checkpoints/runs/team-a/run-uid"
        assert {"name": "OMP_NUM_THREADS", "value": "2"} in trainer["env"]
    wanted = {"esper-bus-trainer"} | ({"pulsar"} if case == "everything" else set())
    assert mounted(pod)["trainer"] == wanted
    assert {"esper-trusted", "esper-kernels"} <= {
        each.get("configMap", {}).get("name") for each in pod["spec"]["volumes"]
    }


@pytest.mark.parametrize("number", [0, 1], ids=["migrate", "serve"])
def test_the_library_understands_its_environment(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = charts.rendered(charts.EVERYTHING)
    owner = charts.named(objects, "Deployment", "esper-urza")
    container = charts.containers(owner["spec"]["template"])[number]
    assert container["command"][:2] == ["esper", "urza"]
    told = charts.environment(objects, container)
    fields = {f"ESPER_URZA_{name.upper()}" for name in ServiceSettings.model_fields}
    assert {name for name in told if name.startswith("ESPER_")} <= fields
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = ServiceSettings()
    assert settings.database_url.get_secret_value() == "postgresql://postgres.data.svc:5432/esper?sslmode=verify-full"
    assert (settings.blobs, settings.s3_endpoint) == ("s3://kernels/library/", "http://s3.data.svc:9000")
    assert settings.subjects == {
        "system:serviceaccount:team-a:default": ["trainer"], "system:serviceaccount:team-b:default": ["trainer"],
        "system:serviceaccount:esper:esper-operator": ["trainer"],
        "system:serviceaccount:esper:esper-dispatcher": ["admin"],
        "system:serviceaccount:esper:esper-tezzeret": ["worker"],
        "system:serviceaccount:esper:esper-urabrask": ["worker"],
    }  # fmt: skip
    assert (settings.host, settings.port) == ("0.0.0.0", 8460)


def test_a_subject_keeps_the_roles_it_was_given_besides_the_trainers() -> None:
    values = {"urza": {"tokens": {"subjects": {"system:serviceaccount:esper:default": ["admin"]}}}}
    objects = charts.rendered(values)
    data = charts.named(objects, "ConfigMap", "esper-urza")["data"]
    assert '["admin","trainer"]' in data["ESPER_URZA_SUBJECTS"]
    before = charts.named(charts.rendered(), "Deployment", "esper-urza")
    after = charts.named(objects, "Deployment", "esper-urza")
    assert before["spec"]["template"] != after["spec"]["template"], "pods must be replaced when settings change"


def test_the_operator_understands_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = charts.rendered(charts.EVERYTHING | {"pools": {"hardware": "x86_64-avx2", "toolchain": "0" * 16}})
    pod = dict(charts.pods(objects))["esper-operator"]
    for name in [name for name in os.environ if name.startswith("ESPER_")]:
        monkeypatch.delenv(name)
    for name, value in charts.environment(objects, pod["spec"]["containers"][0]).items():
        monkeypatch.setenv(name, value)
    settings = load_operator()
    assert settings.pools() == Pools("x86_64-avx2", "0" * 16)
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.urza_token_file is not None
    mounts = {each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]}
    assert str(settings.urza_token_file.parent) in mounts
    assert set(OperatorSettings.model_fields) >= settings.model_fields_set


def test_helm_test_trains_what_the_contracts_accept_where_runs_are_looked_after() -> None:
    objects = charts.rendered(charts.EVERYTHING)
    manifest = yaml.safe_load(charts.named(objects, "ConfigMap", "esper-test")["data"]["run.yaml"])
    named = manifest["metadata"].pop("generateName")
    manifest["metadata"]["name"] = f"{named}abcde"
    assert load(manifest).spec.training.epochs == 2
    (container,) = charts.named(objects, "Pod", "esper-test")["spec"]["containers"]
    assert container["command"] == ["esper-operator-try", "/etc/esper/run.yaml", "team-a"]
    role = charts.named(objects, "Role", "esper-test")
    assert (role["metadata"]["namespace"], role["rules"][0]["verbs"]) == ("team-a", ["create", "get", "delete"])
    hooks = [each for each in objects if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert {each["kind"] for each in hooks} == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Pod"}
    policies = [each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for each in hooks]
    assert set(policies) == {"before-hook-creation,hook-succeeded"}, "nothing may be left to be in the way"


def test_what_the_worker_image_lacks_is_mounted_wherever_it_runs() -> None:
    objects = charts.rendered(charts.EVERYTHING)
    image = "localhost/esper-worker:"
    seen = set()
    for name, pod in charts.pods(objects):
        for container in charts.containers(pod):
            mounts = {each["name"]: each for each in container.get("volumeMounts", ())}
            has = container["image"].startswith(image)
            assert ("packages" in mounts) is has, (name, container["name"])
            assert (charts.environment(objects, container).get("PYTHONPATH") == "/packages") is has
            if has:
                seen.add(container["name"])
                volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
                assert volumes["packages"]["persistentVolumeClaim"] == {"claimName": "packages", "readOnly": True}
    assert seen == {"dispatcher", "tezzeret", "urabrask", "make"}
    (operator,) = charts.containers(charts.named(objects, "Deployment", "esper-operator")["spec"]["template"])
    told = charts.environment(objects, operator)
    assert json.loads(told[f"{PREFIX}POD_ENV"])["PYTHONPATH"] == "/packages"
    laid = json.loads(told[f"{PREFIX}POD_TEMPLATE"])["spec"]
    assert "packages" in {each["name"] for each in laid["volumes"]}
    assert "packages" in {each["name"] for each in laid["containers"][0]["volumeMounts"]}
