"""Resources as an API server shows them, for views that are tried without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from esper_operator.kubectl.found import Found

NOW = datetime(2026, 3, 1, 12, 30, 0, tzinfo=UTC)
Object = dict[str, Any]


def run(phase: str = "Running", **status: Any) -> Object:
    """A training run that has been at it for half an hour."""
    base = {
        "phase": phase, "reason": "Training", "message": "Every pod runs.", "observedGeneration": 1,
        "startedAt": "2026-03-01T12:00:00Z", "epoch": 12, "epochs": 30, "progress": "40%",
        "best": {"metric": "accuracy", "value": 0.956, "epoch": 11, "text": "accuracy=0.956"},
        "seeds": {
            "text": "1/1/1", "byStage": {"CULLED": 1, "GRAFTING": 1, "FOSSILIZED": 1, "DORMANT": 0},
            "entries": [
                {"id": "blocks.1/1", "stage": "GRAFTING", "blueprint": "mlp-gelu", "alpha": 0.4},
                {"id": "blocks.0/0", "stage": "FOSSILIZED", "blueprint": "conv-dw", "verdict": "better, p=0.001"},
                {"id": "blocks.1/0", "stage": "CULLED", "blueprint": "glu", "verdict": "no better, p=0.4"},
            ],
        },
        "kernels": {"ready": 5, "pending": 1, "rejected": 2},
        "budget": {"parameters": 12345, "remainingFraction": 0.62},
        "checkpoint": {"epoch": 12}, "restarts": 1,
        "conditions": [condition("Ready", "True", "ObjectsInPlace"), condition("Running", "True", "Training")],
    }  # fmt: skip
    return {
        "apiVersion": "esper.dev/v1alpha1", "kind": "TrainingRun",
        "metadata": {
            "name": "grow", "namespace": "team", "uid": "run-uid", "generation": 1,
            "creationTimestamp": "2026-03-01T11:59:00Z",
        },
        "spec": {"training": {"epochs": 30}, "parallelism": 2}, "status": base | status,
    }  # fmt: skip


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    """A condition."""
    return {"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-03-01T12:00:00Z"}  # fmt: skip


def job(**status: Any) -> Object:
    """The run's Job."""
    return {
        "metadata": {"name": "grow", "namespace": "team", "uid": "job-uid"}, "spec": {"suspend": False},
        "status": {"startTime": "2026-03-01T11:59:30Z"} | status,
    }  # fmt: skip


def pod(
    rank: int, phase: str = "Running", *, name: str = "", born: str = "2026-03-01T11:59:40Z", **status: Any
) -> Object:
    """A pod of the Job."""
    return {
        "metadata": {
            "name": name or f"grow-{rank}-abcde", "namespace": "team", "creationTimestamp": born,
            "labels": {"batch.kubernetes.io/job-completion-index": str(rank), "esper.dev/training-run": "grow"},
            "ownerReferences": [{"uid": "job-uid", "controller": True}],
        },
        "spec": {"nodeName": "node-1"}, "status": {"phase": phase, "startTime": "2026-03-01T12:00:00Z"} | status,
    }  # fmt: skip


def ended(code: int, reason: str, message: str = "") -> Object:
    """The status of a pod whose container ended five minutes after it began."""
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message,
                            "finishedAt": "2026-03-01T12:05:00Z"}}  # fmt: skip
    return {"containerStatuses": [{"name": "trainer", "state": state}]}


def waiting(reason: str, message: str, container: str = "trainer") -> Object:
    """The status of a pod whose container can't start."""
    return {"containerStatuses": [{"name": container, "state": {"waiting": {"reason": reason, "message": message}}}]}


def warning(about: str, reason: str, note: str, when: str = "2026-03-01T12:10:00.000000Z", **more: Any) -> Object:
    """A Warning event about a pod."""
    return {"type": "Warning", "reason": reason, "note": note, "eventTime": when,
            "regarding": {"kind": "Pod", "name": about}, "metadata": {"name": "e"}} | more  # fmt: skip


def kernel(name: str, phase: str | None = "Validated", **status: Any) -> Object:
    """A kernel artifact."""
    made: Object = {
        "metadata": {"name": name, "namespace": "team", "creationTimestamp": "2026-03-01T10:30:00Z",
                     "labels": {"esper.dev/training-run": "grow"}},
        "spec": {"blueprint": "mlp-gelu", "strategy": "Fast"},
    }  # fmt: skip
    return made if phase is None else made | {"status": {"phase": phase} | status}


def found(**given: Any) -> Found:
    """A healthy run of two pods, but for what is given."""
    wanted: dict[str, Any] = {"run": run(), "jobs": (job(),), "pods": (pod(0), pod(1))} | given
    return Found(**wanted)
