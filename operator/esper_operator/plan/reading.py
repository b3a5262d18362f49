"""A resource as the API server shows it, as the model it was validated by; what other versions added is left out."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from esper_operator.plan.actions import Object
from leyline.resources import (
    Blueprint,
    BlueprintStatus,
    KernelArtifact,
    KernelArtifactStatus,
    TrainingRun,
    TrainingRunStatus,
    load,
    load_blueprint,
    load_kernel_artifact,
)
from leyline.resources.base import fields_of

S = TypeVar("S", TrainingRunStatus, BlueprintStatus, KernelArtifactStatus)
_METADATA = ("name", "namespace", "uid", "generation", "creationTimestamp", "labels", "annotations")


def read_run(raw: Object) -> TrainingRun:
    """The training run; raises ``leyline.resources.ManifestErrors``."""
    run = load(_document(raw), _source(raw))
    return run.model_copy(update={"status": read_status(raw, TrainingRunStatus)})


def read_blueprint(raw: Object) -> Blueprint:
    """The blueprint, a design that fits all its targets; raises ``leyline.resources.ManifestErrors``."""
    design = load_blueprint(_document(raw), _source(raw))
    return design.model_copy(update={"status": read_status(raw, BlueprintStatus)})


def read_kernel_artifact(raw: Object) -> KernelArtifact:
    """The kernel artifact; raises ``leyline.resources.ManifestErrors``."""
    artifact = load_kernel_artifact(_document(raw), _source(raw))
    return artifact.model_copy(update={"status": read_status(raw, KernelArtifactStatus)})


def read_status(raw: Object, model: type[S]) -> S | None:
    """A resource's status; None where there is none, or none that this version understands."""
    status = raw.get("status")
    if not status:
        return None
    known = {field.alias or name for name, field in fields_of(model).items()}
    try:
        return model.model_validate({name: value for name, value in status.items() if name in known})
    except ValidationError:
        return None


def _document(raw: Object) -> Object:
    meta = raw["metadata"]
    return {
        "apiVersion": raw["apiVersion"],
        "kind": raw["kind"],
        "metadata": {name: meta[name] for name in _METADATA if name in meta},
        "spec": raw["spec"],
    }


def _source(raw: Object) -> str:
    return f"{raw['kind']} {raw['metadata']['namespace']}/{raw['metadata']['name']}"
