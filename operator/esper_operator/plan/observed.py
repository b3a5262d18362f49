"""What exists of a run, cut down to what a plan asks about: tens of thousands of these are kept in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper_operator.keys import RUN_UID, TRAINER
from esper_operator.plan.progress import Progress
from esper_operator.reasons import Reason

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ObjectSeen:
    """A ConfigMap or Service: whose it is, and a digest of the parts that matter."""

    uid: str
    owner: str
    digest: str


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A Job; times are as the API server writes them, ``outcome`` is Complete, Failed or empty."""

    uid: str
    version: str
    owner: str
    suspended: bool
    deadline: int | None
    ttl: int | None
    priority: str | None
    managed_by: str | None
    started_at: str | None
    finished_at: str | None
    outcome: str
    failure: str
    message: str
    active: int
    ready: int
    failed: int


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod of a run."""

    name: str
    run_uid: str
    phase: str
    ready: bool
    leaving: bool
    scheduled: bool
    problem: str
    problem_message: str
    exit_code: int | None
    created_at: str


@dataclass(frozen=True)
class Refusal:
    """The outside would not do something for the plan: about what, in whose words, and for which reason."""

    what: str
    message: str
    reason: Reason = Reason.REFUSED


@dataclass(frozen=True)
class Observed:
    """Everything there is of one run."""

    job: JobSeen | None = None
    snapshot: ObjectSeen | None = None
    service: ObjectSeen | None = None
    pods: tuple[PodSeen, ...] = ()
    refusal: Refusal | None = None
    progress: Progress | None = None


def owner_of(raw: Raw) -> str:
    """Uid of the controlling owner; empty when there is none."""
    references = raw["metadata"].get("ownerReferences") or ()
    return next((str(each["uid"]) for each in references if each.get("controller")), "")


def digest(raw: Raw) -> str:
    """Digest of what the operator decides about a ConfigMap or Service; defaults of the API server are left out."""
    spec = raw.get("spec") or {}
    chosen = {
        "data": raw.get("data"),
        "selector": spec.get("selector"),
        "clusterIP": spec.get("clusterIP"),
        "unready": spec.get("publishNotReadyAddresses"),
        "labels": raw["metadata"].get("labels"),
    }
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def object_seen(raw: Raw) -> ObjectSeen:
    """A ConfigMap or Service as the API server shows it."""
    return ObjectSeen(raw["metadata"]["uid"], owner_of(raw), digest(raw))


def job_seen(raw: Raw) -> JobSeen:
    """A Job as the API server shows it."""
    spec, status = raw["spec"], raw.get("status") or {}
    ended = next(
        (
            each
            for each in status.get("conditions") or ()
            if each["type"] in ("Complete", "Failed") and each["status"] == "True"
        ),
        None,
    )
    return JobSeen(
        uid=raw["metadata"]["uid"],
        version=raw["metadata"]["resourceVersion"],
        owner=owner_of(raw),
        suspended=bool(spec.get("suspend")),
        deadline=spec.get("activeDeadlineSeconds"),
        ttl=spec.get("ttlSecondsAfterFinished"),
        priority=spec["template"]["spec"].get("priorityClassName"),
        managed_by=spec.get("managedBy"),
        started_at=status.get("startTime"),
        finished_at=(status.get("completionTime") or ended.get("lastTransitionTime")) if ended else None,
        outcome=ended["type"] if ended else "",
        failure=(ended.get("reason") or "") if ended else "",
        message=(ended.get("message") or "") if ended else "",
        active=status.get("active") or 0,
        ready=status.get("ready") or 0,
        failed=status.get("failed") or 0,
    )


def pod_seen(raw: Raw) -> PodSeen:
    """A pod as the API server shows it: the first thing that keeps it from running is its ``problem``."""
    meta, status = raw["metadata"], raw.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    problem, message = "", ""
    if scheduled.get("status") == "False":
        problem, message = scheduled.get("reason") or "", scheduled.get("message") or ""
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting and not problem:
            problem, message = waiting.get("reason") or "", waiting.get("message") or ""
    trainer: Raw = next((each for each in containers if each["name"] == TRAINER), {})
    ended = (trainer.get("state") or {}).get("terminated") or {}
    return PodSeen(
        name=meta["name"],
        run_uid=(meta.get("labels") or {}).get(RUN_UID, ""),
        phase=status.get("phase") or "Pending",
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        leaving=bool(meta.get("deletionTimestamp")),
        scheduled=bool((raw.get("spec") or {}).get("nodeName")),
        problem=problem,
        problem_message=message,
        exit_code=ended.get("exitCode"),
        created_at=meta.get("creationTimestamp") or "",
    )
