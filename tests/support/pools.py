"""A pool as the API server shows it, and what waits for it."""

from __future__ import annotations

import json
from typing import Any

from esper_operator.keys import WORKER, WORKER_SCALING
from esper_operator.plan.pool import Pool, read_pool
from esper_operator.plan.pools import Waiting
from leyline.resources.enums import KernelPhase

HARDWARE = "x86_64-avx2"
SCALING: dict[str, Any] = {
    "hardware": HARDWARE, "min": 0, "max": 4, "perPod": {"fast": 10, "standard": 2, "aggressive": 1},
    "deadlineSeconds": {"fast": 100, "standard": 200, "aggressive": 5000},
}  # fmt: skip


def template(worker: str = "tezzeret", **scaling: Any) -> dict[str, Any]:
    """A PodTemplate as the API server lists it."""
    return {
        "metadata": {
            "name": f"esper-{worker}", "namespace": "esper", "uid": "pool-uid", "generation": 1,
            "labels": {WORKER: worker, "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/component": worker},
            "annotations": {WORKER_SCALING: json.dumps(SCALING | scaling)},
        },
        "template": {
            "metadata": {"creationTimestamp": None, "labels": {"a": "b"}},
            "spec": {"containers": [{"name": worker, "image": "i"}], "restartPolicy": "Always"},
        },
    }  # fmt: skip


def pool(worker: str = "tezzeret", **scaling: Any) -> Pool:
    return read_pool(template(worker, **scaling))


def waiting(strategy: str = "fast", artifacts: int = 1, phase: str = "PendingBuild") -> Waiting:
    return Waiting(KernelPhase(phase), strategy, HARDWARE, artifacts)
