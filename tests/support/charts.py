"""The chart as the real Helm renders it."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import real_helm

CHART = Path(__file__).resolve().parents[2] / "charts" / "esper"
Object = dict[str, Any]

LEAST: Object = {
    "urza": {
        "database": {"host": "postgres.data.svc", "existingSecret": "urza-database"},
        "objects": {"bucket": "kernels", "endpoint": "http://s3.data.svc:9000", "existingSecret": "urza-objects"},
    },
    "pulsar": {"serviceUrl": "pulsar+ssl://broker.data.svc:6651", "adminUrl": "https://broker.data.svc:8443"},
}
"""What must be said; every render has it unless it says something else."""

EVERYTHING: Object = {
    "training": {
        "namespaces": ["team-a", "team-b"], "env": {"OMP_NUM_THREADS": "2"}, "envSecrets": ["data"],
        "runsVolume": {"persistentVolumeClaim": {"claimName": "runs"}}, "checkpointsUrl": "s3://checkpoints/runs",
    },
    "operator": {"env": {"ESPER_OPERATOR_PROGRESS_SECONDS": "2"}, "envSecrets": ["broker"]},
    "urza": {"database": {"caConfigMap": "ca"}, "objects": {"caConfigMap": "ca"}},
    "pulsar": {"existingSecret": "pulsar", "adminSecret": "pulsar-admin", "caConfigMap": "ca"},
    "images": {"pullSecrets": ["registry"]},
    "worker": {
        "env": {"PYTHONPATH": "/packages"},
        "extraVolumes": [{"name": "packages", "persistentVolumeClaim": {"claimName": "packages", "readOnly": True}}],
        "extraVolumeMounts": [{"name": "packages", "mountPath": "/packages", "readOnly": True}],
    },
    "networkPolicies": {"monitoring": [{"namespaceSelector": {"matchLabels": {"name": "prometheus"}}}]},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}  # fmt: skip
"""Every part of the chart at once."""

TRIAL: Object = {
    "dev": {"enabled": True},
    "urza": {
        "database": {"host": "", "existingSecret": ""}, "objects": {"bucket": "", "endpoint": "", "existingSecret": ""},
    },
    "pulsar": {"serviceUrl": "", "adminUrl": ""},
}  # fmt: skip
"""Servers of the chart's own, and nothing else said."""

CASES: dict[str, Object] = {
    "least": {},
    "everything": EVERYTHING,
    "cluster-wide": {"training": {"clusterWide": True}},
    "operator alone": {"urza": {"enabled": False}},
    "trial": TRIAL,
    "keda": {"pools": {"scaler": "Keda", "hardware": "x86_64-avx512"}, "pulsar": EVERYTHING["pulsar"]},
}
"""Kinds of installations that rules are tried on."""


class Refused(Exception):
    """Helm would not do it; the text is what it said."""


def run(*words: str, values: Object | None = None, environment: dict[str, str] | None = None) -> str:
    """Run Helm with values beside the chart's own; returns what it wrote, raises ``Refused``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(yaml.safe_dump(values or {}))
        homes = {f"HELM_{name}_HOME": folder for name in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(real_helm.helm()), *words, *(("--values", str(file)) if values else ())],
            capture_output=True, text=True, check=False, timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": folder, **homes, **(environment or {})},
        )  # fmt: skip
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def merged(base: Object, more: Object) -> Object:
    """Values laid over others, as Helm does it."""
    made = copy.deepcopy(base)
    for name, value in more.items():
        both = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = merged(made[name], value) if both else value
    return made


def text(values: Object | None = None, release: str = "esper", namespace: str = "esper") -> str:
    """The manifests of a release, as text."""
    return _text(json.dumps(merged(LEAST, values or {}), sort_keys=True), release, namespace)


@functools.lru_cache(maxsize=64)
def _text(values: str, release: str, namespace: str) -> str:
    return run("template", release, str(CHART), "--namespace", namespace, values=json.loads(values))


def rendered(values: Object | None = None, release: str = "esper", namespace: str = "esper") -> list[Object]:
    """The objects of a release, the definitions of custom resources aside."""
    found = [each for each in yaml.load_all(text(values, release, namespace), yaml.CSafeLoader) if each]
    return [each for each in found if each["kind"] != "CustomResourceDefinition"]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Objects of these kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The object of a kind and a name; raises ``LookupError``."""
    for each in of_kind(objects, kind):
        if each["metadata"]["name"] == name:
            return each
    raise LookupError(f"no {kind} {name}; there are {[each['metadata']['name'] for each in of_kind(objects, kind)]}")


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name of its owner and template of every pod there will be."""
    for each in objects:
        spec = each.get("spec") or {}
        if each["kind"] == "Pod":
            yield each["metadata"]["name"], each
        elif template := each.get("template") or spec.get("template") or spec.get("jobTargetRef", {}).get("template"):
            yield each["metadata"]["name"], template


def containers(pod: Object) -> list[Object]:
    """All containers of a pod."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """Variables of a container whose values are known; those of Secrets and fields are ``<kept elsewhere>``."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container.get("env", ()):
        found[entry["name"]] = entry.get("value", "<kept elsewhere>")
    return found
