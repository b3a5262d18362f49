"""``TrainingRun.status``: a summary small enough to be written often; the history is in the library."""

from __future__ import annotations

from typing import Annotated

from leyline.resources.base import MAX_INT, Choice, Int, Name, ShortText, StatusModel, Text, field, keyed
from leyline.resources.enums import RunPhase
from leyline.resources.meta import CONDITIONS_SCHEMA, ConditionEntry

ABSENT = "absent until it is known"
Time = Annotated[str, ShortText]


class SeedEntry(StatusModel):
    """One seed, in short."""

    id: ShortText = field("Seed id, <slot>/<ordinal>.")
    stage: ShortText = field("Lifecycle stage, in capitals.")
    blueprint: ShortText | None = field("Blueprint it grows.", None, why=ABSENT)
    alpha: float | None = field("Blend position.", None, unit="0 to 1", why=ABSENT, ge=0, le=1)
    verdict: ShortText | None = field("The judge's verdict.", None, why=ABSENT)


class SeedSummary(StatusModel):
    """Seeds by count, and the few worth a line."""

    text: ShortText | None = field("For the column: fossilized/active/culled, such as 2/1/3.", None, why=ABSENT)
    by_stage: dict[str, Int] = field("Seeds per lifecycle stage.", factory=dict, why="none yet", max_length=16)
    entries: list[SeedEntry] = field(
        "Active seeds first, then the newest others.", factory=list, why="none yet", max_length=16, schema=keyed("id")
    )


class BestMetric(StatusModel):
    """The best controller-split metric so far."""

    metric: ShortText = field("The metric's name.")
    value: float = field("Its value.", unit="the metric's")
    epoch: Int = field("The epoch it was reached.", unit="epochs", ge=0, le=MAX_INT)
    text: ShortText | None = field("For the column, such as accuracy=0.956.", None, why=ABSENT)


class CheckpointSummary(StatusModel):
    """The newest checkpoint."""

    epoch: Int = field("Epoch it was taken at.", unit="epochs", ge=0, le=MAX_INT)
    digest: ShortText | None = field("SHA-256 of its manifest.", None, why=ABSENT)
    location: Text | None = field("Where it is.", None, why=ABSENT)


class KernelSummary(StatusModel):
    """Kernels the run asked for."""

    ready: Int = field("Validated and usable.", 0, unit="kernels", why="none yet", ge=0, le=MAX_INT)
    rejected: Int = field("Rejected or failed to build.", 0, unit="kernels", why="none yet", ge=0, le=MAX_INT)
    pending: Int = field("Still in the pools.", 0, unit="kernels", why="none yet", ge=0, le=MAX_INT)


class BudgetSummary(StatusModel):
    """What was spent."""

    parameters: Int | None = field("Parameters now.", None, unit="parameters", why=ABSENT, ge=0, le=MAX_INT)
    training_flops: float | None = field("Training FLOPs so far.", None, unit="FLOPs", why=ABSENT, ge=0)
    remaining_fraction: float | None = field("What is left.", None, unit="fraction", why=ABSENT, ge=0, le=1)


class TrainingRunStatus(StatusModel):
    """Where a run is, for people and for the columns of kubectl."""

    phase: Annotated[RunPhase, Choice] | None = field("One word for where the run is.", None, why=ABSENT)
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
    progress: ShortText | None = field("Share of the epochs done, such as 40%.", None, why=ABSENT)
    epoch: Int | None = field("Epochs finished.", None, unit="epochs", why=ABSENT, ge=0, le=MAX_INT)
    epochs: Int | None = field("Epochs wanted.", None, unit="epochs", why=ABSENT, ge=0, le=MAX_INT)
    seeds: SeedSummary | None = field("Seeds in short.", None, why=ABSENT)
    best: BestMetric | None = field("Best metric so far.", None, why=ABSENT)
    gpus: Int | None = field("GPUs in use.", None, unit="GPUs", why=ABSENT, ge=0, le=MAX_INT)
    eta: ShortText | None = field("When the run should end, RFC 3339.", None, why=ABSENT)
    started_at: ShortText | None = field("When training began, RFC 3339.", None, why=ABSENT)
    finished_at: ShortText | None = field("When the run ended, RFC 3339.", None, why=ABSENT)
    restarts: Int | None = field("Pod restarts.", None, unit="restarts", why=ABSENT, ge=0, le=MAX_INT)
    reason: ShortText | None = field("CamelCase reason of the phase.", None, why=ABSENT)
    message: Text | None = field("What happened and what to do next.", None, why=ABSENT)
    checkpoint: CheckpointSummary | None = field("Newest checkpoint.", None, why=ABSENT)
    kernels: KernelSummary | None = field("Kernels asked for.", None, why=ABSENT)
    budget: BudgetSummary | None = field("What was spent.", None, why=ABSENT)
    library_run: Name | None = field("Id of the run's history in the library.", None, why=ABSENT)
