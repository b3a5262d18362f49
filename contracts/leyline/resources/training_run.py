"""``TrainingRun``: one training job that may grow its network. The same document serves a laptop and a cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from leyline.resources.base import (
    API_VERSION,
    ATOMIC,
    MAX_INT,
    PRESERVE,
    Int,
    Model,
    Name,
    ShortText,
    field,
)
from leyline.resources.cluster import ResourcesSpec, TolerationSpec
from leyline.resources.growth import ControllerSpec, JudgeSpec, KernelsSpec, SeedsSpec
from leyline.resources.meta import Metadata
from leyline.resources.status import TrainingRunStatus
from leyline.resources.training import (
    SLOTS_SCHEMA,
    BudgetSpec,
    CheckpointsSpec,
    GovernorSpec,
    Slots,
    TaskSpec,
    TrainingSpec,
)

# Fields of a run's spec that may change after it was created.
MUTABLE_SPEC_FIELDS = frozenset({"suspend", "active_deadline_seconds", "priority_class_name"})


class TrainingRunSpec(Model):
    """What to train, how it may grow, and where."""

    seed: Int = field(
        "Seed of every random number of the run.",
        0,
        unit="random seed",
        why="any number does, as long as it is the same one next time",
        ge=0,
        le=MAX_INT,
    )
    task: TaskSpec = field("The network, its data and its loss.")
    slots: Slots = field("Where the network may grow.", min_length=1, max_length=64, schema=SLOTS_SCHEMA)
    training: TrainingSpec = field("The training loop.")
    budget: BudgetSpec = field("What the run may spend.", factory=BudgetSpec, why="no limit beyond the epochs")
    seeds: SeedsSpec = field("How many seeds there may be and how one lives.", factory=SeedsSpec, why="see its fields")
    judge: JudgeSpec = field("How a seed earns its place.", factory=JudgeSpec, why="see its fields")
    controller: ControllerSpec = field("Who decides when and where.", factory=ControllerSpec, why="see its fields")
    kernels: KernelsSpec = field("Which kernels to choose from.", factory=KernelsSpec, why="see its fields")
    checkpoints: CheckpointsSpec = field("What is kept for resuming.", factory=CheckpointsSpec, why="see its fields")
    governor: GovernorSpec = field("When to roll back.", factory=GovernorSpec, why="see its fields")
    suspend: bool = field(
        "Stop the pods after a checkpoint and keep the run; false resumes it.", False, why="a new run should run"
    )
    parallelism: Int = field(
        "Training pods, one rank each.", 1, unit="pods", why="the bundled tasks fit one", ge=1, le=1024
    )
    resources: ResourcesSpec = field(
        "Compute resources of one pod.", factory=ResourcesSpec, why="the namespace's defaults"
    )
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = field(
        "Labels a node must have.", factory=dict, why="any node", max_length=64
    )
    tolerations: list[TolerationSpec] = field(
        "Taints the pods may live with.", factory=list, why="none", max_length=64, schema=ATOMIC
    )
    priority_class_name: str | None = field(
        "PriorityClass of the pods.", None, why="the cluster's default", max_length=253
    )
    active_deadline_seconds: Int | None = field(
        "Fail the run when it has been running this long; suspended time does not count.",
        None,
        unit="seconds",
        why="the epochs bound a run",
        ge=1,
        le=2_147_483_647,
    )
    pre_running_deadline_seconds: Int | None = field(
        "Fail the run when it has not begun to train after this long.",
        None,
        unit="seconds",
        why="queues may be long",
        ge=1,
        le=2_147_483_647,
    )
    ttl_seconds_after_finished: Int | None = field(
        "Delete the pods of a finished run after this long; when absent, they stay.",
        None,
        unit="seconds",
        why="logs are worth more than the object",
        ge=0,
        le=2_147_483_647,
    )
    backoff_limit: Int = field(
        "Pod failures before the run fails; evictions do not count.",
        6,
        unit="failures",
        why="as in Kubernetes",
        ge=0,
        le=1_000_000,
    )
    managed_by: str | None = field(
        "Leave the Job to this external controller, domain/name.",
        None,
        why="the cluster's own Job controller",
        form="domain/name, such as kueue.x-k8s.io/multikueue",
        max_length=63,
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
    )
    image: str | None = field(
        "Container image of the pods.", None, why="the operator's, of the same version", max_length=512
    )
    hardware_target: Name | None = field(
        "Hardware the kernels are built for, such as x86_64-avx512.", None, why="what the pods' nodes say they are"
    )
    pod_template: dict[str, Any] = field(
        "Overrides merged into the pod template, as a partial PodTemplateSpec.",
        factory=dict,
        why="nothing to override",
        schema=PRESERVE,
    )


class TrainingRun(Model):
    """A training run: the document users write, and its state as the cluster reports it."""

    api_version: Literal["esper.dev/v1alpha1"] = field(
        "Group and version of the resource.", API_VERSION, why="only one"
    )
    kind: Literal["TrainingRun"] = field("The resource's kind.", "TrainingRun", why="only one")
    metadata: Metadata = field("Name, namespace, labels.")
    spec: TrainingRunSpec = field("What is wanted.")
    status: TrainingRunStatus | None = field("What is; written by the operator only.", None, why="nobody looked yet")


__all__ = ["MUTABLE_SPEC_FIELDS", "ShortText", "TrainingRun", "TrainingRunSpec", "TrainingRunStatus"]
