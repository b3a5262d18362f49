"""Kubernetes object metadata and conditions, as far as a resource document may carry them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from leyline.resources.base import Choice, Int, Model, StatusModel, Text, field, keyed
from leyline.resources.enums import ConditionStatus

Label = Annotated[str, Field(max_length=63)]


class Metadata(Model):
    """Object metadata; the name is the user's, the rest the API server's."""

    name: str = field(
        "Name of the object: lower-case letters, digits and dashes. At most 50, so that pod names still fit.",
        min_length=1,
        max_length=50,
        form="lower-case letters, digits and dashes",
        pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
    )
    namespace: str | None = field("Namespace.", None, why="the client's current one", max_length=63)
    labels: dict[str, Label] = field("Labels.", factory=dict, why="none needed")
    annotations: dict[str, str] = field("Annotations.", factory=dict, why="none needed")
    uid: str | None = field("Set by the API server.", None, why="not the user's")
    resource_version: str | None = field("Set by the API server.", None, why="not the user's")
    generation: Int | None = field("Set by the API server.", None, why="not the user's", unit="spec changes")
    creation_timestamp: str | None = field("Set by the API server.", None, why="not the user's")
    deletion_timestamp: str | None = field("Set by the API server.", None, why="not the user's")
    deletion_grace_period_seconds: Int | None = field(
        "Set by the API server.", None, why="not the user's", unit="seconds"
    )
    finalizers: list[str] = field("Finalizers.", factory=list, why="Esper uses none")
    owner_references: list[dict[str, Any]] = field("Owners.", factory=list, why="set by the operator")
    managed_fields: list[dict[str, Any]] = field("Set by the API server.", factory=list, why="not the user's")


class ConditionEntry(StatusModel):
    """One condition of a status, in Kubernetes' own form."""

    model_config = ConfigDict(title="Condition")

    type: str = field("CamelCase name of the condition.", max_length=316)
    status: Annotated[ConditionStatus, Choice] = field("Whether it holds.")
    reason: str = field("Stable CamelCase reason.", max_length=256, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    message: str = field("What happened and what to do next.", max_length=4096)
    last_transition_time: str = field("When status changed last, RFC 3339.", max_length=64)
    observed_generation: Int | None = field(
        "Generation of the spec this was said about.", None, why="absent before the first look", unit="spec changes"
    )


CONDITIONS_SCHEMA = keyed("type")
Message = Text
