"""A resource as the API server shows it, as the model it was validated by; what other versions added is left out."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from esper_operator.plan.actions import Object
from leyline.resources import TrainingRun, TrainingRunStatus, load
from leyline.resources.base import fields_of

_METADATA = ("name", "namespace", "uid", "generation", "labels", "annotations")


def read_run(raw: Object) -> TrainingRun:
    """The training run; raises ``leyline.resources.ManifestErrors``."""
    meta = raw["metadata"]
    run = load(
        {
            "apiVersion": raw["apiVersion"],
            "kind": raw["kind"],
            "metadata": {name: meta[name] for name in _METADATA if name in meta},
            "spec": raw["spec"],
        },
        source=f"{raw['kind']} {meta['namespace']}/{meta['name']}",
    )
    return run.model_copy(update={"status": read_status(raw.get("status"))})


def read_status(raw: Any) -> TrainingRunStatus | None:
    """A status; None where there is none, or none that this version understands."""
    if not raw:
        return None
    known = {field.alias or name for name, field in fields_of(TrainingRunStatus).items()}
    try:
        return TrainingRunStatus.model_validate({name: value for name, value in raw.items() if name in known})
    except ValidationError:
        return None
