"""The objects of a training run: snapshot, headless Service, Job. What they are called is decided here."""

from __future__ import annotations

from typing import Any

import yaml

from esper_operator.keys import run_labels
from esper_operator.plan.actions import Object
from esper_operator.plan.pod import INTERRUPTED_EXIT, MANIFEST, snapshot_name, template
from esper_operator.plan.settings import PodSettings
from leyline.resources import API_VERSION, TrainingRun
from leyline.resources.training_run import MUTABLE_SPEC_FIELDS

# libyaml's is some ten times as quick; writing snapshots was a third of the operator's work.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

BAD_INPUT_EXIT = 2
"""Exit code of ``esper`` for a manifest it refuses: trying again can't help."""


def _metadata(run: TrainingRun, name: str) -> Object:
    uid = run.metadata.uid or ""
    return {
        "name": name,
        "namespace": run.metadata.namespace,
        "labels": run_labels(run.metadata.name, uid),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION, "kind": "TrainingRun", "name": run.metadata.name, "uid": uid,
                "controller": True, "blockOwnerDeletion": False,
            }
        ],
    }  # fmt: skip


def snapshot(run: TrainingRun) -> Object:
    """The manifest that the pods train by: the spec with every default, without the fields that may change."""
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRun",
        "metadata": {"name": run.metadata.name, "namespace": run.metadata.namespace},
        "spec": run.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=set(MUTABLE_SPEC_FIELDS)),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(run, snapshot_name(run.metadata.name)),
        "immutable": True,
        "data": {MANIFEST: yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True)},
    }


def service(run: TrainingRun) -> Object:
    """The headless Service that gives each rank a name: ``<run>-<rank>.<run>``, from before it is ready."""
    labels = run_labels(run.metadata.name, run.metadata.uid or "")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(run, run.metadata.name),
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels},
    }


def job(run: TrainingRun, settings: PodSettings) -> Object:
    """The Indexed Job, one pod a rank. The time to live is set later: only when the run's status says how it ended."""
    spec = run.spec
    wanted: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": spec.parallelism,
        "parallelism": spec.parallelism,
        # When one rank fails, all of them do: the limit counts failures of the run, the Job those of its pods.
        "backoffLimit": (spec.backoff_limit + 1) * spec.parallelism - 1,
        "suspend": spec.suspend,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
        "managedBy": spec.managed_by,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                # An eviction, preemption or node drain is nobody's failure, nor is a signal that was obeyed.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [INTERRUPTED_EXIT]}},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [BAD_INPUT_EXIT]}},
            ]
        },
        "template": template(run, settings),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(run, run.metadata.name),
        "spec": {name: value for name, value in wanted.items() if value is not None},
    }
