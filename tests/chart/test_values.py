"""The chart's values: each is described, each changes something, and a wrong one is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import charts

VALUES = yaml.safe_load((charts.CHART / "values.yaml").read_text())
SCHEMA = json.loads((charts.CHART / "values.schema.json").read_text())
Path = tuple[str, ...]


def leaves(values: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Values that are not sections; a mapping the user fills is one too."""
    for name, value in values.items():
        here = (*path, name)
        schema = schema_of(here)
        if isinstance(value, dict) and schema.get("properties") and schema.get("additionalProperties") is False \
                and here[-1] != "resources":  # fmt: skip
            yield from leaves(value, here)
        else:
            yield here, value


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def schema_of(path: Path) -> dict[str, Any]:
    found = SCHEMA
    for name in path:
        found = resolved(found["properties"][name])
    return found


def sections(schema: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    schema = resolved(schema)
    if "properties" in schema:
        yield path, schema
        for name, inner in schema["properties"].items():
            yield from sections(inner, (*path, name))


def nested(path: Path, value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


def test_schema_and_values_name_the_same_things() -> None:
    for path, schema in sections(SCHEMA):
        values: Any = VALUES
        for name in path:
            values = values.get(name) if isinstance(values, dict) else None
        if isinstance(values, dict) and path[-1:] != ("resources",):
            assert set(schema["properties"]) - {"global"} == set(values), ".".join(path)


def test_the_schema_is_closed_everywhere() -> None:
    def walk(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if "properties" in schema and not path.endswith(("/if", "/then")) and "/then/" not in path \
                    and "/if/" not in path and schema.get("additionalProperties") is not False:  # fmt: skip
                yield path
            for name, inner in schema.items():
                yield from walk(inner, f"{path}/{name}")

    assert not list(walk(SCHEMA, ""))


def lines_of(node: yaml.MappingNode, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Where in the file each key stands."""
    for key, value in node.value:
        here = (*path, str(key.value))
        yield here, key.start_mark.line
        if isinstance(value, yaml.MappingNode):
            yield from lines_of(value, here)


def test_every_value_is_described_above_it() -> None:
    text = (charts.CHART / "values.yaml").read_text()
    places = dict(lines_of(yaml.compose(text, yaml.SafeLoader)))
    lines = text.splitlines()
    bare = [".".join(path) for path, _ in leaves(VALUES) if not lines[places[path] - 1].lstrip().startswith("# ")]
    assert not bare


OTHERS: dict[str, Any] = {
    "images.operator.digest": "sha256:" + "a" * 64, "images.worker.digest": "sha256:" + "b" * 64,
    "images.pullPolicy": "Always", "images.pullSecrets": ["registry"],
    "training.namespaces": ["team"], "training.serviceAccounts": ["trainer"], "training.env": {"A": "b"},
    "training.envSecrets": ["s"], "worker.env": {"A": "b"},
    "worker.extraVolumes": [{"name": "packages", "emptyDir": {}}],
    "worker.extraVolumeMounts": [{"name": "packages", "mountPath": "/packages"}],
    "training.checkpointsUrl": "s3://runs", "pools.toolchain": "0123456789abcdef",
    "training.runsVolume": {"persistentVolumeClaim": {"claimName": "runs"}},
    "operator.env": {"A": "b"}, "operator.envSecrets": ["s"],
    "networkPolicies.operatorEgress": [{"ports": [{"port": 6651}]}],
    "operator.logLevel": "debug", "urza.logLevel": "debug", "urza.database.sslMode": "require",
    "urza.objects.prefix": "other/", "urza.objects.endpoint": "http://other:1", "urza.objects.bucket": "other",
    "urza.objects.publicEndpoint": "http://public:2", "urza.tokens.jwksUrl": "https://keys.example/jwks",
    "urza.tokens.subjects": {"someone": ["reader"]},
    "networkPolicies.dns": [], "networkPolicies.apiServer.ports": [16443],
    "networkPolicies.apiServer.cidrs": ["10.0.0.1/32"], "networkPolicies.trainingEgress": [{"ports": [{"port": 80}]}],
    "networkPolicies.monitoring": [{"podSelector": {"matchLabels": {"a": "c"}}}],
    "podMonitor.interval": "10s", "crds.keep": False,
    "pulsar.serviceUrl": "pulsar://other:1", "pulsar.adminUrl": "http://other:2",
    "dispatcher.logLevel": "debug", "tezzeret.logLevel": "debug", "urabrask.logLevel": "debug",
    "dev.persistence.enabled": False, "dev.persistence.size": "7Gi", "dev.postgres.image.digest": "sha256:" + "c" * 64,
    "dev.s3.image.digest": "sha256:" + "d" * 64, "dev.pulsar.image.digest": "sha256:" + "e" * 64,
    "pools.scaler": "Keda", "pulsar.tokenKey": "other", "pulsar.adminTokenKey": "other",
}  # fmt: skip
"""Another value where one can't be made up from the kind of the first."""
PEER = [{"podSelector": {"matchLabels": {"a": "b"}}}]
# A Secret's key shows only with the Secret.
BASE: dict[str, Any] = {"podMonitor": {"enabled": True}, "networkPolicies": {"monitoring": PEER},
                        "pulsar": {"existingSecret": "pulsar", "adminSecret": "admin"},
                        "pools": {"hardware": "x86_64-avx2"}}  # fmt: skip
TRIAL = charts.merged(charts.TRIAL, {"dev": {"persistence": {"enabled": True}}})


def other(path: Path, value: Any) -> Any:
    name = ".".join(path)
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}other"
    if path[-1] == "resources":
        return {"limits": {"memory": "3Gi"}}
    if path[-1] == "tolerations":
        return [{"key": "gpu", "operator": "Exists"}]
    if path[0] == "networkPolicies":
        return PEER
    return {"made": "up"}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path, _ in leaves(VALUES)], ids=".".join)
def test_every_value_changes_something(path: Path) -> None:
    value = VALUES
    for name in path:
        value = value[name]
    base = TRIAL if path[0] == "dev" else BASE
    changed = charts.text(charts.merged(base, nested(path, other(path, value))))
    set_already = path in {("urza", "enabled"), ("podMonitor", "enabled"), ("dev", "enabled")}
    assert (changed != charts.text(base)) or set_already


WRONG: list[tuple[str, Any, str]] = [
    ("opertor", {}, "opertor"),
    ("operator.replica", 2, "replica"),
    ("operator.replicas", 0, "/operator/replicas"),
    ("operator.replicas", "two", "/operator/replicas"),
    ("operator.logLevel", "verbose", "/operator/logLevel"),
    ("operator.resources", {"limit": {}}, "limit"),
    ("images.operator.digest", "md5:1", "/images/operator/digest"),
    ("images.worker.tag", "a b", "/images/worker/tag"),
    ("images.pullPolicy", "Sometimes", "/images/pullPolicy"),
    ("training.runsVolume", {"emptyDir": {}, "hostPath": {}}, "/training/runsVolume"),
    ("training.namespaces", ["Upper"], "/training/namespaces/0"),
    ("training.env", {"A": 1}, "/training/env/A"),
    ("worker.env", {"A": 1}, "/worker/env/A"),
    ("worker.extraVolumes", [{"emptyDir": {}}], "/worker/extraVolumes/0"),
    ("worker.extraVolumeMounts", [{"name": "packages", "mountPath": "at"}], "/worker/extraVolumeMounts/0/mountPath"),
    ("urza.database.host", "", "/urza/database/host"),
    ("urza.database.existingSecret", "", "/urza/database/existingSecret"),
    ("urza.objects.bucket", "", "/urza/objects/bucket"),
    ("pulsar.serviceUrl", "", "/pulsar/serviceUrl"),
    ("pulsar.adminUrl", "", "/pulsar/adminUrl"),
    ("pulsar.serviceUrl", "pulsar://broker", "/pulsar/serviceUrl"),
    ("pulsar.serviceUrl", "pulsar://user:word@broker:6650", "/pulsar/serviceUrl"),
    ("training.checkpointsUrl", "/var/checkpoints", "/training/checkpointsUrl"),
    ("keys.generation", 0, "/keys/generation"),
    ("tezzeret.process", 2, "process"),
    ("tezzeret.replicas", 2, "replicas"),
    ("tezzeret.min", 5, "tezzeret.min: 5 is more than tezzeret.max, 4"),
    ("urabrask.perPod.fast", 0, "/urabrask/perPod/fast"),
    ("urabrask.perPod.quick", 1, "quick"),
    ("pools.scaler", "Nobody", "/pools/scaler"),
    ("urza.database.port", 70000, "/urza/database/port"),
    ("urza.database.host", "user:secret@host", "/urza/database/host"),
    ("urza.objects.endpoint", "s3.example", "/urza/objects/endpoint"),
    ("urza.objects.endpoint", "http://key:secret@s3.example", "/urza/objects/endpoint"),
    ("urza.objects.prefix", "library", "/urza/objects/prefix"),
    ("urza.tokens.subjects", {"someone": ["root"]}, "/urza/tokens/subjects/someone"),
    ("networkPolicies.apiServer.cidrs", ["10.0.0.1"], "/networkPolicies/apiServer/cidrs/0"),
    ("networkPolicies.monitoring", [{"nameSpaceSelector": {}}], "nameSpaceSelector"),
    ("dev.postgres.image.tag", "", "/dev/postgres/image/tag"),
    ("dev.persistence.size", "5", "/dev/persistence/size"),
    ("dev.mysql", {}, "mysql"),
    ("podMonitor.interval", "30", "/podMonitor/interval"),
    ("fullnameOverride", "Has Spaces", "/fullnameOverride"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=[f"{path}-{named}" for path, _, named in WRONG])
def test_a_wrong_value_is_refused_by_its_name(path: str, value: Any, named: str) -> None:
    with pytest.raises(charts.Refused) as refused:
        charts.text(nested(tuple(path.split(".")), value))
    assert named in str(refused.value), refused.value
