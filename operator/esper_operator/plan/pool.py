"""A pool: a PodTemplate whose label names the workers and whose annotation says how many of them there may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from esper_operator.keys import MANAGED_BY, WORKER, WORKER_SCALING
from esper_operator.plan.actions import Object
from leyline.identity import HARDWARE_PATTERN, MAX_HARDWARE

WORKERS = ("tezzeret", "urabrask")
Target = Annotated[str, Field(pattern=f"^({HARDWARE_PATTERN})?$", max_length=MAX_HARDWARE)]
"""A hardware target, or nothing."""
LONGEST_NAME = 52
"""Leaves room for a Job's number: pods bear the Job's name as a label."""


class InvalidPool(Exception):
    """A PodTemplate that is marked as a pool and can't be one; says which field and what to do."""


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class PerStrategy(_Told):
    """A number for each strategy."""

    fast: Annotated[int, Field(ge=1, le=10_000_000)]
    standard: Annotated[int, Field(ge=1, le=10_000_000)]
    aggressive: Annotated[int, Field(ge=1, le=10_000_000)]

    def of(self, strategy: str) -> int:
        """That of one; of the slowest for one this version does not know."""
        return int(getattr(self, strategy, self.aggressive))

    @property
    def shortest(self) -> int:
        """The smallest of them."""
        return min(self.fast, self.standard, self.aggressive)


class Scaling(_Told):
    """How many pods, for what.

    Attributes:
        hardware: the target whose artifacts the pods take; empty: all.
        min, max: pods at any time; ``min`` of them also when nothing waits.
        per_pod: artifacts of a strategy that one pod is left to work through.
        deadline_seconds: how long a Job may last in which artifacts of a strategy are worked on.
    """

    hardware: Target = ""
    min: Annotated[int, Field(ge=0, le=1000)] = 0
    max: Annotated[int, Field(ge=0, le=1000)]
    per_pod: PerStrategy
    deadline_seconds: PerStrategy

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}; raise max")
        return self


@dataclass(frozen=True)
class Pool:
    """A pool as it is described now; ``generation`` counts the changes of ``template``, which is a Job's.

    ``labels`` are those of its Jobs.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    worker: str
    scaling: Scaling
    labels: Mapping[str, str]
    template: Mapping[str, Any]


def read_pool(raw: Object) -> Pool:
    """The pool that a PodTemplate describes; raises ``InvalidPool``."""
    meta = raw["metadata"]
    labels = dict(meta.get("labels") or {})
    worker = labels.pop(WORKER, "")
    # It says who made the PodTemplate, and the Jobs are not watched as those of runs are.
    labels.pop(MANAGED_BY, None)
    if worker not in WORKERS:
        raise InvalidPool(f"label {WORKER}: is {worker[:63]!r}; must be one of {', '.join(WORKERS)}")
    if len(meta["name"]) > LONGEST_NAME:
        raise InvalidPool(f"name: has {len(meta['name'])} characters; must have at most {LONGEST_NAME}")
    told = (meta.get("annotations") or {}).get(WORKER_SCALING, "")
    try:
        scaling = Scaling.model_validate_json(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidPool(f"annotation {WORKER_SCALING}{place and f': {place}'}: {first['msg']}; correct it") from error
    template = raw.get("template") or {}
    inner = {
        name: value for name, value in (template.get("metadata") or {}).items() if name in ("labels", "annotations")
    }
    return Pool(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=meta.get("generation") or 0,
        worker=worker,
        scaling=scaling,
        labels=labels,
        # A pod that ended is the Job's to replace: only so can its policy for failures tell them apart.
        template={"metadata": inner, "spec": {**(template.get("spec") or {}), "restartPolicy": "Never"}},
    )
