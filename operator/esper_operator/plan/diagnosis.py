"""Where a training run is and why, read off its Job and its pods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from esper_operator.plan.conditions import Verdict
from esper_operator.plan.observed import Observed, PodSeen
from esper_operator.plan.times import moment
from esper_operator.reasons import Reason
from leyline.resources import TrainingRun
from leyline.resources.enums import RunPhase

IMAGE_PROBLEMS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
HARMLESS_PROBLEMS = frozenset({"ContainerCreating", "PodInitializing", "SchedulingGated", ""})
JOB_FAILURES = {
    "BackoffLimitExceeded": Reason.BACKOFF_EXHAUSTED,
    "DeadlineExceeded": Reason.DEADLINE_EXCEEDED,
    "PodFailurePolicy": Reason.BAD_INPUT,
}
UNFINISHED = frozenset({"Pending", "Running", "Unknown"})
ENDED = frozenset({RunPhase.SUCCEEDED, RunPhase.FAILED})


@dataclass(frozen=True)
class Diagnosis:
    """Phase, what decided it, and what each condition says."""

    phase: RunPhase
    why: Verdict
    conditions: dict[str, Verdict]


def diagnose(run: TrainingRun, seen: Observed, now: datetime) -> Diagnosis:
    """Where a run is that has not ended as far as its status knows."""
    scheduled, running, phase = _pods(run, seen)
    suspended = _suspended(run, seen)
    ended = _ended(run, seen, now)
    why = running
    if suspended.holds or suspended.reason is Reason.SUSPENDING:
        phase, why = RunPhase.SUSPENDED, suspended
        scheduled = running = replace(suspended, holds=False)
    if ended is not None:
        phase = RunPhase.SUCCEEDED if ended.reason is Reason.COMPLETED else RunPhase.FAILED
        why = ended
        scheduled = running = Verdict(False, ended.reason, ended.detail)
        suspended = Verdict(False, Reason.NOT_SUSPENDED)
    elif seen.refusal is not None:
        why = Verdict(False, seen.refusal.reason, f"{seen.refusal.what}: {seen.refusal.message}")
    unfinished = Verdict(False, Reason.NOT_FINISHED)
    conditions = {
        "Ready": why if seen.refusal is not None and ended is None else Verdict(True, Reason.IN_PLACE),
        "Scheduled": scheduled,
        "Running": running,
        "Suspended": suspended,
        "Complete": replace(ended, holds=phase is RunPhase.SUCCEEDED) if ended else unfinished,
        "Failed": replace(ended, holds=phase is RunPhase.FAILED) if ended else unfinished,
    }
    return Diagnosis(phase, why, conditions)


def has_ended(run: TrainingRun) -> bool:
    """The status says how the run ended, and that is for good."""
    return run.status is not None and run.status.phase in ENDED


def _ended(run: TrainingRun, seen: Observed, now: datetime) -> Verdict | None:
    job = seen.job
    if job is not None and job.outcome == "Complete":
        return Verdict(True, Reason.COMPLETED)
    if job is not None and job.outcome == "Failed":
        return Verdict(True, JOB_FAILURES.get(job.failure, Reason.FAILED), job.message)
    remaining = seconds_to_run(run, seen, now)
    if remaining is not None and remaining <= 0:
        limit = run.spec.pre_running_deadline_seconds
        return Verdict(True, Reason.NEVER_RAN, f"{limit} s; {_pods(run, seen)[1].message}")
    return None


def seconds_to_run(run: TrainingRun, seen: Observed, now: datetime) -> float | None:
    """Seconds left until the run must have begun; None where nothing limits that, or it has begun or is suspended."""
    limit = run.spec.pre_running_deadline_seconds
    begun = run.status is not None and run.status.started_at is not None
    job = seen.job
    if limit is None or begun or run.spec.suspend or job is None or job.started_at is None or job.outcome:
        return None
    if _all_ready(run, seen):
        return None
    return limit - (now - moment(job.started_at)).total_seconds()


def _suspended(run: TrainingRun, seen: Observed) -> Verdict:
    job = seen.job
    if run.spec.suspend:
        leaving = job is not None and (job.active > 0 or any(pod.phase in UNFINISHED for pod in seen.pods))
        return Verdict(False, Reason.SUSPENDING) if leaving else Verdict(True, Reason.SUSPENDED)
    return Verdict(False, Reason.NOT_SUSPENDED)


def _pods(run: TrainingRun, seen: Observed) -> tuple[Verdict, Verdict, RunPhase]:
    """What holds of Scheduled and Running, and the phase, of a run that is neither suspended nor over."""
    wanted = run.spec.parallelism
    alive = [pod for pod in seen.pods if _alive(pod)]
    done = _done(seen.pods)
    placed = sum(pod.scheduled for pod in alive) + done
    stuck = next((pod for pod in alive if pod.problem == "Unschedulable"), None)
    if seen.job is not None and seen.job.managed_by is not None and not alive:
        there = Verdict(None, Reason.EXTERNALLY_MANAGED, seen.job.managed_by)
        return there, there, RunPhase.PENDING
    if stuck is not None:
        waiting = Verdict(False, Reason.UNSCHEDULABLE, f"{stuck.name}: {stuck.problem_message}")
        return waiting, waiting, RunPhase.PENDING
    if placed < wanted:
        failed = _last_failed(seen.pods)
        if failed is not None:
            again = Verdict(False, Reason.RESTARTING, _failure(failed))
            return Verdict(False, Reason.WAITING_FOR_PODS), again, RunPhase.PENDING
        waiting = Verdict(False, Reason.WAITING_FOR_PODS, f"{placed} of {wanted}")
        return waiting, waiting, RunPhase.PENDING
    scheduled = Verdict(True, Reason.SCHEDULED)
    broken = next((pod for pod in alive if pod.problem in IMAGE_PROBLEMS), None)
    if broken is not None:
        detail = f"{broken.name}: {broken.problem}: {broken.problem_message}"
        return scheduled, Verdict(False, Reason.IMAGE_PULL_FAILED, detail), RunPhase.PENDING
    broken = next((pod for pod in alive if pod.problem not in HARMLESS_PROBLEMS), None)
    if broken is not None:
        detail = f"{broken.name}: {broken.problem}: {broken.problem_message}"
        return scheduled, Verdict(False, Reason.CONTAINER_REFUSED, detail), RunPhase.PENDING
    # Pods that are done wait for the Job controller to say so. A run so short that nobody saw it train skips that.
    begun = run.status is not None and run.status.reason == Reason.TRAINING.value
    if _all_ready(run, seen) and (begun or done < wanted):
        return scheduled, Verdict(True, Reason.TRAINING), RunPhase.RUNNING
    return scheduled, Verdict(False, Reason.STARTING), RunPhase.PREPARING


def _alive(pod: PodSeen) -> bool:
    return pod.phase in UNFINISHED and not pod.leaving


def _all_ready(run: TrainingRun, seen: Observed) -> bool:
    return sum(pod.ready for pod in seen.pods if _alive(pod)) + _done(seen.pods) >= run.spec.parallelism


def _done(pods: Iterable[PodSeen]) -> int:
    return sum(pod.phase == "Succeeded" for pod in pods)


def _last_failed(pods: Iterable[PodSeen]) -> PodSeen | None:
    failed = [pod for pod in pods if pod.phase == "Failed"]
    return max(failed, key=lambda pod: (pod.created_at, pod.name), default=None)


def _failure(pod: PodSeen) -> str:
    return f"{pod.name}: exit code {pod.exit_code}" if pod.exit_code is not None else f"{pod.name} failed"
