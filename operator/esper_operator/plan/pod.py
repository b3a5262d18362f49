"""The pod template of a training run: one container that runs ``esper train`` under the restricted Pod Security."""

from __future__ import annotations

from typing import Any, NamedTuple

from esper_operator.keys import COMPLETION_INDEX, TRAINER, run_labels
from esper_operator.plan.actions import Object
from esper_operator.plan.merge import merged
from esper_operator.plan.settings import NONROOT, PodSettings
from leyline.resources import TrainingRun

MANIFESTS = "/etc/esper"
MANIFEST = "manifest.yaml"
RUNS = "/var/lib/esper/runs"
CACHE = "/var/cache/esper"
TOKENS = "/var/run/secrets/esper"
KEYS = "/etc/esper-keys"
HTTP_PORT = 8470
TRAIN = "ESPER_TRAIN_"
HEALTH = {f"{TRAIN}HTTP_HOST": "0.0.0.0", f"{TRAIN}HTTP_PORT": str(HTTP_PORT)}
INTERRUPTED_EXIT = 130
"""What a trainer ends with that a signal stopped: to a Job, 0 would be the end of the run."""
MEETING_PORT = 29400
TOKEN_SECONDS = 3600


def snapshot_name(run: str) -> str:
    """Name of the ConfigMap with a run's resolved spec."""
    return f"{run}-manifest"


def template(run: TrainingRun, settings: PodSettings) -> Object:
    """The template with the installation's and the user's overrides; what ties pods to their run stays."""
    labels = run_labels(run.metadata.name, run.metadata.uid or "")
    base = merged({"metadata": {"labels": {}}, "spec": _pod(run, settings)}, settings.template)
    made = merged(base, run.spec.pod_template)
    metadata = made["metadata"] | {"labels": made["metadata"].get("labels", {}) | labels}
    fixed = {"restartPolicy": "Never"} | ({"priorityClassName": name} if (name := priority(run)) else {})
    return {"metadata": metadata, "spec": made["spec"] | fixed}


def _pod(run: TrainingRun, settings: PodSettings) -> Object:
    spec = run.spec
    wanted: dict[str, Any] = {
        "subdomain": run.metadata.name if spec.parallelism > 1 else None,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "nodeSelector": dict(spec.node_selector) or None,
        "tolerations": [
            each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in spec.tolerations
        ] or None,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": NONROOT, "runAsGroup": NONROOT, "fsGroup": NONROOT,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(run, settings)],
        "volumes": _volumes(run, settings),
    }  # fmt: skip
    return {name: value for name, value in wanted.items() if value is not None}


def priority(run: TrainingRun) -> str | None:
    """PriorityClass of the pods; the spec's own field wins over an override, for it may change."""
    overridden: str | None = run.spec.pod_template.get("spec", {}).get("priorityClassName")
    return run.spec.priority_class_name or overridden


def _container(run: TrainingRun, settings: PodSettings) -> Object:
    resources = run.spec.resources.model_dump(mode="json", by_alias=True)
    mounts = [
        {"name": "manifest", "mountPath": MANIFESTS, "readOnly": True},
        {"name": "runs", "mountPath": RUNS},
        {"name": "cache", "mountPath": CACHE},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if settings.urza_url:
        mounts.append({"name": "tokens", "mountPath": TOKENS, "readOnly": True})
    mounts += [{"name": key.volume, "mountPath": key.folder, "readOnly": True} for key in keys(settings)]
    return {
        "name": TRAINER,
        "image": run.spec.image or settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": command(run),
        "env": environment(run, settings),
        "envFrom": [{"secretRef": {"name": name}} for name in settings.env_secrets],
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "resources": {name: amounts for name, amounts in resources.items() if amounts},
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip


def command(run: TrainingRun) -> list[str]:
    """What the container runs: ``esper`` itself, whose exit codes the Job goes by (a launcher would hide them)."""
    return [
        "esper", "train", "--manifest", f"{MANIFESTS}/{MANIFEST}", "--output", f"{RUNS}/{run.metadata.uid}",
        "--suspended-exit", str(INTERRUPTED_EXIT),
    ]  # fmt: skip


def environment(run: TrainingRun, settings: PodSettings) -> list[Object]:
    """Variables of the container; what the operator was told wins over what it would say itself."""
    plain = {"HOME": "/tmp", "ESPER_CACHE_DIR": CACHE, f"{TRAIN}CACHE_DIR": CACHE} | HEALTH
    plain |= {key.variable: f"{key.folder}{key.file}" for key in keys(settings)}
    if settings.urza_url:
        plain |= {"ESPER_LIBRARY_URL": settings.urza_url, "ESPER_LIBRARY_TOKEN_FILE": f"{TOKENS}/urza"}
    if settings.checkpoints_url:
        place = f"{settings.checkpoints_url.rstrip('/')}/{run.metadata.namespace}/{run.metadata.uid}"
        plain |= {"ESPER_CHECKPOINTS_URL": place}
    named: list[Object] = [{"name": name, "value": value} for name, value in (plain | dict(settings.env)).items()]
    return named if run.spec.parallelism == 1 else [*named, *_rank(run)]


class KeyFile(NamedTuple):
    """A volume of keys, its source, where it is mounted, the file in it that counts, and the variable that says so."""

    volume: str
    source: Object
    folder: str
    file: str
    variable: str


def keys(settings: PodSettings) -> list[KeyFile]:
    """Key files that the operator was told of."""
    secret = {"secret": {"secretName": settings.bus_key_secret, "defaultMode": 0o440}}
    trust, kernels = _config(settings.bus_trust), _config(settings.kernel_keys)
    known = (
        (settings.bus_key_secret, KeyFile("bus-key", secret, f"{KEYS}/bus", "/key.pem", f"{TRAIN}BUS_KEY_FILE")),
        (settings.bus_trust, KeyFile("bus-trust", trust, f"{KEYS}/trusted", "", f"{TRAIN}BUS_TRUST_DIR")),
        (
            settings.kernel_keys,
            KeyFile("kernel-keys", kernels, f"{KEYS}/kernels", "/public.json", f"{TRAIN}PUBLIC_KEYS_FILE"),
        ),
    )
    return [entry for name, entry in known if name]


def _config(name: str) -> Object:
    return {"configMap": {"name": name}}


def _rank(run: TrainingRun) -> list[Object]:
    """A pod's place among the ranks, as torch.distributed reads it; they meet at the first pod's name."""
    index = {"fieldRef": {"fieldPath": f"metadata.labels['{COMPLETION_INDEX}']"}}
    name = run.metadata.name
    return [
        {"name": "RANK", "valueFrom": index},
        {"name": "WORLD_SIZE", "value": str(run.spec.parallelism)},
        {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
        {"name": "MASTER_PORT", "value": str(MEETING_PORT)},
    ]


def _volumes(run: TrainingRun, settings: PodSettings) -> list[Object]:
    volumes: list[Object] = [
        {"name": "manifest", "configMap": {"name": snapshot_name(run.metadata.name)}},
        {"name": "runs", **settings.runs},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if settings.urza_url:
        token = {"audience": settings.urza_audience, "expirationSeconds": TOKEN_SECONDS, "path": "urza"}
        volumes.append({"name": "tokens", "projected": {"sources": [{"serviceAccountToken": token}]}})
    return volumes + [{"name": key.volume, **key.source} for key in keys(settings)]
