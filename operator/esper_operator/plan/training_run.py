"""The reconcile of a training run: from the resource and what exists of it to what there should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from esper_operator.plan.actions import Action, Adjust, Apply, Create, Delete, Object, Plan
from esper_operator.plan.conditions import news
from esper_operator.plan.diagnosis import ENDED, diagnose, has_ended, seconds_to_run
from esper_operator.plan.lasting import seconds_to_last
from esper_operator.plan.objects import job, service, snapshot
from esper_operator.plan.observed import JobSeen, ObjectSeen, Observed, digest
from esper_operator.plan.pod import priority
from esper_operator.plan.settings import PodSettings
from esper_operator.plan.status import final_status, revised_status
from leyline.resources import TrainingRun

AT_ONCE = 1
"""A Job's shortest deadline, in seconds: how a run is ended that must not go on."""


def plan(run: TrainingRun, seen: Observed, settings: PodSettings, now: datetime) -> Plan:
    """What to do about ``run``, given all of it there is.

    A status that says how the run ended is written before its Job may go: the result of a run is never lost, and a
    run that ended is never begun again.
    """
    if has_ended(run):
        return Plan(closing(run, seen.job), final_status(run, seen.progress, now))
    found = diagnose(run, seen, now)
    status = revised_status(run, seen, found, now)
    told = news(run.status.reason if run.status is not None else None, found.why.reason, found.why.message)
    if found.phase in ENDED or seen.refusal is not None:
        return Plan((), status, told)
    actions = (
        *kept(run, snapshot, seen.snapshot),
        # A single pod looks for nobody by name, and for a Service others write several times at each change of a pod.
        *(kept(run, service, seen.service, rewrite=True) if run.spec.parallelism > 1 else ()),
        *wanted_job(run, seen.job, settings),
    )
    soon = seconds_to_last(run, seen, found, now)
    deadline = seconds_to_run(run, seen, now)
    if status is None or soon == 0:
        return Plan(actions, status, told, after=deadline)
    return Plan(actions, after=soon if deadline is None else min(soon, deadline))


def kept(
    run: TrainingRun, make: Callable[[TrainingRun], Object], there: ObjectSeen | None, *, rewrite: bool = False
) -> tuple[Action, ...]:
    """Make what is missing, and with ``rewrite`` correct what differs; a snapshot stays what it was."""
    if there is None or there.owner != run.metadata.uid:
        return (Create(make(run)),)
    if not rewrite:
        return ()  # and nothing is written as YAML for it, which was most of a look's cost
    wanted = make(run)
    return (Apply(wanted, there.uid),) if there.digest != digest(wanted) else ()


def wanted_job(run: TrainingRun, there: JobSeen | None, settings: PodSettings) -> tuple[Action, ...]:
    """Make the Job, or bring the few of its fields that may change to what the spec says."""
    if there is None or there.owner != run.metadata.uid:
        return (Create(job(run, settings)),)
    if there.priority != priority(run) and there.suspended and there.active == 0:
        # A Job's pods keep their priority; an idle Job can be made again with another.
        return (Delete("Job", run.metadata.name, there.uid),)
    wanted = {"suspend": run.spec.suspend, "activeDeadlineSeconds": run.spec.active_deadline_seconds}
    return adjusted(run, there, wanted)


def closing(run: TrainingRun, there: JobSeen | None) -> tuple[Action, ...]:
    """What is left to do for a run whose status says that it ended."""
    if there is None or there.owner != run.metadata.uid:
        return ()
    wanted: dict[str, Any] = {"ttlSecondsAfterFinished": run.spec.ttl_seconds_after_finished}
    if not there.outcome:
        wanted |= {"activeDeadlineSeconds": AT_ONCE, "suspend": False}
    return adjusted(run, there, wanted)


def adjusted(run: TrainingRun, there: JobSeen, wanted: Mapping[str, Any]) -> tuple[Action, ...]:
    """The difference between some fields of the Job and what they should be."""
    current = {
        "suspend": there.suspended,
        "activeDeadlineSeconds": there.deadline,
        "ttlSecondsAfterFinished": there.ttl,
    }
    changes = {name: value for name, value in wanted.items() if current[name] != value}
    return (Adjust("Job", run.metadata.name, there.uid, {"spec": changes}),) if changes else ()
