"""``KernelArtifact``: one blueprint compiled for one interface, hardware and strategy; the pools bring its verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from leyline.errors import FieldError, InterfaceError
from leyline.resources.base import API_VERSION, Choice, Int, Model, Name, ShortText, StatusModel, Text, field
from leyline.resources.blueprint import InterfaceSpec
from leyline.resources.enums import KernelPhase, Strategy
from leyline.resources.meta import CONDITIONS_SCHEMA, ConditionEntry, Metadata
from leyline.resources.status import ABSENT


class KernelArtifactSpec(Model):
    """What to build."""

    blueprint: Name = field("Blueprint, by name.")
    interface: InterfaceSpec = field("Activations it takes and returns.")
    strategy: Annotated[Strategy, Choice] = field("How much effort to compile it.", Strategy.FAST, why="milliseconds")
    hardware: Name | None = field("Hardware target; absent for the pool's own.", None, why="most clusters have one")


class KernelArtifactStatus(StatusModel):
    """How far the kernel is, and what was measured."""

    observed_generation: Int | None = field(
        "Generation of the spec this status is about.", None, unit="spec changes", why=ABSENT, ge=0
    )
    conditions: list[ConditionEntry] = field(
        "What holds and what does not, with reasons.",
        factory=list,
        why="none yet",
        max_length=16,
        schema=CONDITIONS_SCHEMA,
    )
    phase: Annotated[KernelPhase, Choice] | None = field("One word for where it is.", None, why=ABSENT)
    artifact_id: ShortText | None = field("Id in the library.", None, why=ABSENT)
    hardware: ShortText | None = field("Hardware it was built for.", None, why=ABSENT)
    digest: ShortText | None = field("SHA-256 of the manifest that was built and measured.", None, why=ABSENT)
    ratio: float | None = field(
        "Latency against the Fast kernel of the same blueprint; below 1 is faster.",
        None,
        unit="ratio",
        why=ABSENT,
        ge=0,
    )
    ratio_text: ShortText | None = field("For the column: the ratio and its interval.", None, why=ABSENT)
    tags: list[ShortText] = field("Empirical tags.", factory=list, why="none yet", max_length=16)
    tags_text: ShortText | None = field("For the column: the tags, comma-separated.", None, why=ABSENT)
    risk: float | None = field("Risk as measured.", None, unit="risk, 0 to 1", why=ABSENT, ge=0, le=1)
    message: Text | None = field("What happened and what to do next.", None, why=ABSENT)


class KernelArtifact(Model):
    """One kernel as a resource."""

    api_version: Literal["esper.dev/v1alpha1"] = field(
        "Group and version of the resource.", API_VERSION, why="only one"
    )
    kind: Literal["KernelArtifact"] = field("The resource's kind.", "KernelArtifact", why="only one")
    metadata: Metadata = field("Name, namespace, labels.")
    spec: KernelArtifactSpec = field("What to build.")
    status: KernelArtifactStatus | None = field("What is; written by the operator only.", None, why="nobody looked yet")

    def problems(self) -> list[FieldError]:
        """What a schema can't see: an interface too large to build for."""
        try:
            self.spec.interface.to_interface()
        except InterfaceError as error:
            return [FieldError(f"spec.interface.{error.where}", error.problem, error.allowed)]
        return []
