"""``Blueprint``: a branch design in the IR, registered with the library under its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from leyline.blueprint import MAX_NODES, BlueprintIR
from leyline.errors import BlueprintError, FieldError, InterfaceError
from leyline.interface import MAX_BATCH, MAX_ELEMENTS, MAX_WIDTH, Interface, Layout
from leyline.resources.base import (
    API_VERSION,
    ATOMIC,
    MAX_INT,
    PRESERVE,
    Choice,
    Distinct,
    Int,
    Model,
    Name,
    ShortText,
    StatusModel,
    Text,
    field,
)
from leyline.resources.enums import Strategy, Tier
from leyline.resources.meta import CONDITIONS_SCHEMA, ConditionEntry, Metadata
from leyline.resources.status import ABSENT


class InterfaceSpec(Model):
    """The activations a kernel takes and returns."""

    layout: Annotated[Layout, Choice] = field("Axes of the activations.")
    width: Int = field("Features.", unit="features", ge=1, le=MAX_WIDTH)
    trailing: list[Annotated[Int, Field(ge=1, le=MAX_ELEMENTS)]] = field(
        "Fixed sizes of the other axes: T, L, or H and W.",
        factory=list,
        why="a vector has none",
        max_length=2,
        schema=ATOMIC,
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = field(
        "Element type.", "float32", why="parameters are float32"
    )
    batch_min: Int = field("Smallest batch.", 1, unit="examples", why="one example must work", ge=1, le=MAX_BATCH)
    batch_max: Int = field(
        "Largest batch.", 4096, unit="examples", why="as everywhere in the contracts", ge=1, le=MAX_BATCH
    )

    def to_interface(self) -> Interface:
        """The same interface as the rest of the contracts know it; raises InterfaceError when it is too large."""
        return Interface(self.layout, self.width, tuple(self.trailing), self.dtype, (self.batch_min, self.batch_max))


class BlueprintTarget(Model):
    """A kernel wanted for this blueprint."""

    interface: InterfaceSpec = field("What it is built for.")
    strategy: Annotated[Strategy, Choice] = field("How it is built.", Strategy.FAST, why="milliseconds")
    hardware: Name | None = field("Hardware target; absent for the pool's own.", None, why="most clusters have one")


class GraphNode(Model):
    """One node of the graph."""

    op: ShortText = field("Operator of the IR's vocabulary.", min_length=1)
    inputs: list[ShortText] = field(
        "Names of the nodes it reads, in order.",
        factory=list,
        why="the input node reads none",
        max_length=8,
        schema=ATOMIC,
    )
    params: dict[str, Any] = field(
        "Parameters of the operator: whole numbers, booleans and words.",
        factory=dict,
        why="many operators have none",
        schema=PRESERVE,
        max_length=16,
    )


class GraphSpec(Model):
    """The IR in its JSON form; its nodes are checked by ``leyline.blueprint``, its frame here."""

    version: Literal[1] = field("Version of the IR.", 1, unit="version", why="only one", alias="schema")
    layouts: Annotated[list[Annotated[Layout, Choice]], Distinct] = field(
        "Layouts the design works on.", min_length=1, max_length=4, schema={"x-kubernetes-list-type": "set"}
    )
    nodes: dict[str, GraphNode] = field("Nodes by name.", min_length=1, max_length=MAX_NODES)
    output: ShortText = field("The node whose value is the branch's output.", min_length=1)


class BlueprintSpec(Model):
    """A design and where it is wanted."""

    graph: GraphSpec = field("The design in the blueprint IR.")
    summary: Text | None = field("What the design is, in a sentence.", None, why="the graph says it all")
    risk: float = field(
        "How likely the design is to harm a run, 0 to 1.",
        0.5,
        unit="risk, 0 to 1",
        why="unknown; measurements move it",
        ge=0,
        le=1,
    )
    approved: bool = field("Allowed whatever its risk.", False, why="approval is a person's act")
    targets: list[BlueprintTarget] = field(
        "Kernels to build now; runs ask for more.", factory=list, why="demand decides", max_length=64, schema=ATOMIC
    )

    def to_ir(self) -> BlueprintIR:
        """The design as the rest of the contracts know it; raises BlueprintError."""
        return BlueprintIR.from_json(self.graph.model_dump(mode="json", by_alias=True))


class BlueprintStatus(StatusModel):
    """What the library knows about the blueprint."""

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
    digest: ShortText | None = field("SHA-256 of the canonical IR.", None, why=ABSENT)
    tier: Annotated[Tier, Choice] | None = field("How far it is trusted.", None, why=ABSENT)
    risk: float | None = field("Risk as measured.", None, unit="risk, 0 to 1", why=ABSENT, ge=0, le=1)
    kernels: Int | None = field("Validated kernels.", None, unit="kernels", why=ABSENT, ge=0, le=MAX_INT)
    message: Text | None = field("What happened and what to do next.", None, why=ABSENT)


class Blueprint(Model):
    """A branch design as a resource."""

    api_version: Literal["esper.dev/v1alpha1"] = field(
        "Group and version of the resource.", API_VERSION, why="only one"
    )
    kind: Literal["Blueprint"] = field("The resource's kind.", "Blueprint", why="only one")
    metadata: Metadata = field("Name, namespace, labels.")
    spec: BlueprintSpec = field("What is wanted.")
    status: BlueprintStatus | None = field("What is; written by the operator only.", None, why="nobody looked yet")

    def problems(self) -> list[FieldError]:
        """What a schema can't see: a graph that is no blueprint, or that does not fit one of its targets."""
        try:
            ir = self.spec.to_ir()
        except BlueprintError as error:
            return [_located("spec.graph", error)]
        found = []
        for index, target in enumerate(self.spec.targets):
            path = f"spec.targets[{index}].interface"
            try:
                ir.check(target.interface.to_interface())
            except InterfaceError as error:
                found.append(FieldError(f"{path}.{error.where}", error.problem, error.allowed))
            except BlueprintError as error:
                found.append(FieldError(path, str(error)))
        return found


def _located(path: str, error: BlueprintError) -> FieldError:
    where = f"{path}.nodes.{error.node}" if error.node else path
    return FieldError(where, error.problem, error.allowed)
