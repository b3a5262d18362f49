"""The status of a training run, from the one it has, what is seen, and the diagnosis."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from esper_operator.plan.actions import Object
from esper_operator.plan.conditions import Verdict, revised
from esper_operator.plan.diagnosis import ENDED, Diagnosis
from esper_operator.plan.observed import JobSeen, Observed
from esper_operator.plan.progress import Progress, told
from esper_operator.plan.reading import read_status
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import Reason
from leyline.resources import BlueprintStatus, KernelArtifactStatus, TrainingRun, TrainingRunStatus
from leyline.resources.base import StatusModel
from leyline.resources.enums import RunPhase

LONGEST_MESSAGE = 1024


def revised_status(run: TrainingRun, seen: Observed, found: Diagnosis, now: datetime) -> Object | None:
    """The status as the API server should have it; None where it has it already."""
    old = run.status or TrainingRunStatus()
    stamp = rfc3339(now)
    job = seen.job
    running = found.phase is RunPhase.RUNNING
    ended = found.phase in ENDED
    started = old.started_at or (stamp if running else None) or (job.started_at if job and ended else None)
    new = old.model_copy(
        update=told(old, seen.progress, now)
        | {
            "phase": found.phase,
            "reason": found.why.reason.value,
            "message": found.why.message[:LONGEST_MESSAGE],
            "observed_generation": run.metadata.generation,
            "conditions": revised(old.conditions, found.conditions, run.metadata.generation, stamp),
            "epochs": run.spec.training.epochs,
            **({"eta": None} if ended else {}),
            "gpus": gpus(run) * _holding(run, job, found.phase),
            "restarts": max(old.restarts or 0, -(-job.failed // run.spec.parallelism) if job is not None else 0),
            "started_at": started,
            "finished_at": old.finished_at or ((job.finished_at if job else None) or stamp if ended else None),
        }
    )
    return None if new == run.status else plain(new)


def final_status(run: TrainingRun, said: Progress | None, now: datetime) -> Object | None:
    """The status of a run that ended: it stays as it is, said of whatever generation the spec has by now.

    What the run said before its end and a broker has kept until now is taken in.
    """
    old = run.status or TrainingRunStatus()
    late = told(old, said, now)
    generation = run.metadata.generation
    if not late and old.observed_generation == generation:
        return None
    conditions = [each.model_copy(update={"observed_generation": generation}) for each in old.conditions]
    return plain(
        old.model_copy(
            update=late | {"eta": None, "observed_generation": generation, "conditions": conditions},
        )
    )


def invalid_status(raw: Object, problems: str, now: datetime) -> Object | None:
    """The status of a resource whose spec this operator can't read: nothing is made for it."""
    kind = raw["kind"]
    old: TrainingRunStatus | BlueprintStatus | KernelArtifactStatus
    if kind == "TrainingRun":
        old = read_status(raw, TrainingRunStatus) or TrainingRunStatus()
    elif kind == "Blueprint":
        old = read_status(raw, BlueprintStatus) or BlueprintStatus()
    else:
        old = read_status(raw, KernelArtifactStatus) or KernelArtifactStatus()
    generation = raw["metadata"].get("generation")
    verdict = Verdict(False, Reason.INVALID_SPEC, problems)
    update: dict[str, Any] = {
        "message": verdict.message[:LONGEST_MESSAGE],
        "observed_generation": generation,
        "conditions": revised(old.conditions, {"Ready": verdict}, generation, rfc3339(now)),
    }
    if isinstance(old, TrainingRunStatus):
        update |= {"phase": old.phase or RunPhase.PENDING, "reason": verdict.reason.value}
    new = old.model_copy(update=update)
    return None if new == old else plain(new)


def plain(status: StatusModel) -> Object:
    """A status as the API server takes it.

    What is empty is left out: server-side apply makes null of a map or list whose last entry goes, and then refuses it.
    """
    made: Object = _full(status.model_dump(mode="json", by_alias=True, exclude_none=True))
    return made


def _full(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _full(each) for name, each in value.items() if each not in ({}, [])}
    return [_full(each) for each in value] if isinstance(value, list) else value


def _holding(run: TrainingRun, job: JobSeen | None, phase: RunPhase) -> int:
    """Pods that hold their GPUs; while it trains all of them, until the Job is over."""
    if job is None or phase in ENDED:
        return 0
    return run.spec.parallelism if phase is RunPhase.RUNNING else job.active


def gpus(run: TrainingRun) -> int:
    """GPUs of one pod: every extended resource of that name, whoever makes them."""
    amounts = run.spec.resources.limits.items()
    return sum(int(amount) for name, amount in amounts if name.endswith("/gpu") and str(amount).isdigit())
