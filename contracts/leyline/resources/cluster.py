"""What only a cluster reads: pods, placement, deadlines. One machine accepts and ignores these fields."""

from __future__ import annotations

from typing import Annotated

from leyline.resources.base import Choice, Int, Model, Quantity, ShortText, field
from leyline.resources.enums import TaintEffect, TolerationOperator


class ResourcesSpec(Model):
    """Compute resources of one training pod, as Kubernetes quantities."""

    limits: dict[str, Quantity] = field(
        "Upper bounds by resource name; GPUs go here.",
        factory=dict,
        why="a run without limits fits the namespace's defaults",
        max_length=32,
    )
    requests: dict[str, Quantity] = field(
        "What the scheduler sets aside.", factory=dict, why="Kubernetes copies the limits", max_length=32
    )


class TolerationSpec(Model):
    """A taint the pods may live with."""

    key: ShortText | None = field("Taint key; absent with operator Exists for all.", None, why="as in Kubernetes")
    operator: Annotated[TolerationOperator, Choice] = field(
        "How key and value are matched.", TolerationOperator.EQUAL, why="as in Kubernetes"
    )
    value: ShortText | None = field("Taint value, for Equal.", None, why="as in Kubernetes")
    effect: Annotated[TaintEffect, Choice] | None = field(
        "Taint effect; absent for every effect.", None, why="as in Kubernetes"
    )
    toleration_seconds: Int | None = field(
        "How long to stay on a NoExecute taint; absent for ever.",
        None,
        unit="seconds",
        why="as in Kubernetes",
        ge=0,
        le=2_147_483_647,
    )
