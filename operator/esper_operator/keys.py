"""Every label, annotation and name that the operator puts on objects or looks for."""

from __future__ import annotations

DOMAIN = "esper.dev"
FIELD_MANAGER = "esper-operator"

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
RUN = f"{DOMAIN}/training-run"
RUN_UID = f"{DOMAIN}/training-run-uid"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
BLUEPRINT = f"{DOMAIN}/blueprint"
WORKER = f"{DOMAIN}/worker"
"""Marks a PodTemplate as a pool, of these workers."""
WORKER_SCALING = f"{DOMAIN}/scaling"
"""How many of them, as JSON; see ``esper_operator.plan.pool.Scaling``."""
POOL = f"{DOMAIN}/pool"
"""Of which pool a Job is."""
POOL_GENERATION = f"{DOMAIN}/pool-generation"
"""Of which version of its pool's template a Job is."""

MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"
"""What the operator watches of kinds that are not its own."""

TRAINER = "trainer"
"""The container that trains; overrides of a pod template find it by this name."""


def run_labels(name: str, uid: str) -> dict[str, str]:
    """Labels of everything that belongs to a training run."""
    return {
        NAME: "esper",
        COMPONENT: "training",
        MANAGED_BY: FIELD_MANAGER,
        RUN: name,
        RUN_UID: uid,
    }


def blueprint_labels(name: str) -> dict[str, str]:
    """Labels of the kernel artifacts of a blueprint."""
    return {NAME: "esper", COMPONENT: "kernels", MANAGED_BY: FIELD_MANAGER, BLUEPRINT: name}
