"""The reconcile of a pool: from what waits in the library and which Jobs there are to Jobs made and widened.

A Job of a pool is a work queue: pods that take work until there is none, and then end. Once one of them has ended
well, Kubernetes starts no further ones in that Job; it is closing, and who is needed besides its pods comes in another.
Nothing is ever scaled down: pods end by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from esper_operator.keys import POOL, POOL_GENERATION
from esper_operator.plan.actions import Adjust, ClusterAction, Create, Delete, Object
from esper_operator.plan.pool import Pool
from leyline.resources.enums import KernelPhase

TAKES: Mapping[str, frozenset[KernelPhase]] = MappingProxyType(
    {
        "tezzeret": frozenset({KernelPhase.PENDING_BUILD}),
        "urabrask": frozenset({KernelPhase.BUILT, KernelPhase.PENDING_BENCHMARK}),
    }
)
"""What the workers of a pool are needed for. Noisy artifacts are not among it: one that is to be measured again is
PendingBenchmark as soon as the dispatcher has queued it, and one that was given up stays Noisy for ever."""
UNFINISHED = frozenset().union(*TAKES.values())

BACKOFF_LIMIT = 10
"""Pods of a Job that may fail, with ever longer pauses in between, before the Job does."""
KEPT_SECONDS = 300
"""How long a finished Job is kept: its log can be read, and one that failed holds its pool back for as long."""
BAD_INPUT_EXIT = 2
"""Exit code of a worker whose settings are wrong: another pod would say the same."""
FAILED_FOR_GOOD = frozenset({"BackoffLimitExceeded", "PodFailurePolicy"})


@dataclass(frozen=True)
class Waiting:
    """So many artifacts of one phase, strategy and hardware."""

    phase: KernelPhase
    strategy: str
    hardware: str
    artifacts: int


@dataclass(frozen=True)
class PoolJob:
    """A Job of a pool. ``leaving``: it makes no further pods and takes no orders; ``finished``: it has none left."""

    pool: str
    name: str
    uid: str
    owner: str
    generation: int
    parallelism: int
    deadline: int
    active: int = 0
    terminating: int = 0
    succeeded: int = 0
    suspended: bool = False
    leaving: bool = False
    finished: bool = False
    failure: str = ""

    @property
    def number(self) -> int:
        """Which of its pool's Jobs it is; 0 for a name the operator does not give."""
        end = self.name.rpartition("-")[2]
        return int(end) if end.isdecimal() else 0

    @property
    def there(self) -> int:
        """Pods that there are of it."""
        return self.active + self.terminating

    @property
    def working(self) -> int:
        """Pods of it that take work, now or in a moment.

        Somebody who suspends a Job (a person, Kueue) decides when it goes on; it will do its part then.
        """
        return self.active if self.succeeded else self.parallelism

    @property
    def most(self) -> int:
        """Pods that there may be of it before it is looked at again."""
        return self.there if self.leaving or self.succeeded else max(self.parallelism, self.there)


@dataclass(frozen=True)
class PoolPlan:
    """What to do; ``artifacts`` wait, ``wanted`` pods should work, ``working`` do or are on their way.

    ``held``: the Job that failed and holds back others, if that is why none is made; ``told``: which pods come, if any.
    """

    actions: tuple[ClusterAction, ...] = ()
    artifacts: int = 0
    wanted: int = 0
    working: int = 0
    held: str = ""
    told: str = ""


def plan(pool: Pool, waiting: Iterable[Waiting], jobs: Sequence[PoolJob]) -> PoolPlan:
    """What to do about a pool; doing it twice changes nothing, nor does planning again from what it led to."""
    queue = _queue(pool, waiting)
    scaling = pool.scaling
    # Exact: pods that floating-point numbers made up would come and find nothing.
    needed = math.ceil(sum(Fraction(queue[each], scaling.per_pod.of(each)) for each in queue))
    wanted = max(scaling.min, min(scaling.max, needed))
    limits = [scaling.deadline_seconds.of(each) for each in queue]
    deadline = max(limits) if limits else scaling.deadline_seconds.shortest
    current = [job for job in jobs if job.owner == pool.uid and job.generation == pool.generation]
    live = [job for job in current if not (job.finished or job.leaving)]
    working = sum(job.working for job in live)
    # Those of an earlier template that are suspended make no more pods.
    taken = sum(job.there if job.suspended and job not in live else job.most for job in jobs if not job.finished)
    missing = min(wanted - working, scaling.max - taken)
    failed = next((job for job in current if job.finished and job.failure in FAILED_FOR_GOOD), None)
    widened = min((job for job in live if not job.succeeded), key=lambda job: job.number, default=None)
    actions = [*_older(pool, jobs)]
    told, held = "", ""
    for job in live:
        patch: dict[str, Any] = {"activeDeadlineSeconds": deadline} if job.deadline < deadline else {}
        if missing > 0 and job is widened:
            patch["parallelism"] = job.parallelism + missing
            told = f"{job.name} goes from {job.parallelism} to {job.parallelism + missing} pods"
        if patch:
            actions.append(Adjust("Job", job.name, job.uid, {"spec": patch}))
    if missing > 0 and widened is None:
        if failed is not None:
            held = failed.name
        else:
            made = job_of(pool, 1 + max((job.number for job in jobs), default=0), missing, deadline)
            actions.append(Create(made))
            told = f"{made['metadata']['name']} begins with {missing} pods"
    artifacts = sum(queue.values())
    if told:
        told += f": {artifacts} artifacts wait"
    return PoolPlan(tuple(actions), artifacts, wanted, working, held, told)


def served(phase: KernelPhase, hardware: str, pools: Iterable[Pool]) -> bool:
    """Whether some pool takes artifacts of this phase and hardware; yes for those that no pool is needed for."""
    workers = [worker for worker, phases in TAKES.items() if phase in phases]
    return not workers or any(
        pool.worker in workers and pool.scaling.max and pool.scaling.hardware in ("", hardware) for pool in pools
    )


def _queue(pool: Pool, waiting: Iterable[Waiting]) -> dict[str, int]:
    """Artifacts that wait for this pool, by strategy."""
    found: dict[str, int] = {}
    for each in waiting:
        if each.phase in TAKES[pool.worker] and pool.scaling.hardware in ("", each.hardware) and each.artifacts:
            found[each.strategy] = found.get(each.strategy, 0) + each.artifacts
    return found


def _older(pool: Pool, jobs: Sequence[PoolJob]) -> Iterable[ClusterAction]:
    """End Jobs of an earlier template: their pods finish what they have in hand, and take nothing more.

    They might build with a toolchain that nobody asks for any more. Those of a template that is gone go with it.
    """
    for job in jobs:
        if job.owner != pool.uid or job.generation == pool.generation or job.finished or job.leaving:
            continue
        if not job.suspended:
            yield Adjust("Job", job.name, job.uid, {"spec": {"suspend": True}})
        elif not job.there:
            yield Delete("Job", job.name, job.uid)


def job_of(pool: Pool, number: int, parallelism: int, deadline: int) -> Object:
    """The Job; its name follows from what was there before, so that two who decide alike make one."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{pool.name}-{number}",
            "namespace": pool.namespace,
            "labels": {**pool.labels, POOL: pool.name},
            "annotations": {POOL_GENERATION: str(pool.generation)},
            "ownerReferences": [
                {
                    "apiVersion": "v1", "kind": "PodTemplate", "name": pool.name, "uid": pool.uid,
                    "controller": True, "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "parallelism": parallelism,
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": deadline,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [BAD_INPUT_EXIT]}},
                ]
            },
            "template": pool.template,
        },
    }  # fmt: skip


def job_seen(raw: Object) -> PoolJob:
    """A Job of a pool as the API server shows it."""
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or () if each["status"] == "True"}
    failed = conditions.get("Failed") or {}
    owners = [each["uid"] for each in meta.get("ownerReferences") or () if each.get("controller")]
    generation = (meta.get("annotations") or {}).get(POOL_GENERATION, "")
    return PoolJob(
        pool=(meta.get("labels") or {}).get(POOL, ""),
        name=meta["name"],
        uid=meta["uid"],
        owner=owners[0] if owners else "",
        generation=int(generation) if generation.isdecimal() else 0,
        parallelism=spec.get("parallelism", 1),
        deadline=spec.get("activeDeadlineSeconds") or 0,
        active=status.get("active") or 0,
        terminating=status.get("terminating") or 0,
        succeeded=status.get("succeeded") or 0,
        suspended=bool(spec.get("suspend")),
        leaving=bool(meta.get("deletionTimestamp") or conditions.keys() & {"FailureTarget", "SuccessCriteriaMet"}),
        finished=bool(conditions.keys() & {"Failed", "Complete"}),
        failure=failed.get("reason") or "",
    )
