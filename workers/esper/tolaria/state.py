"""A run's whole state in one piece: what a checkpoint holds and a rollback goes back to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esper.errors import CheckpointMismatch
from esper.tolaria.store import Checkpoint
from leyline.canonical import digest

if TYPE_CHECKING:
    from esper.tolaria.line import Line
    from leyline.resources import TrainingRun

MAIN, TWIN = "main/", "twin/"

# Changing these does not change what a run computes up to the checkpoint, so a resume may.
_FREE = ("suspend", "activeDeadlineSeconds", "priorityClassName", "checkpoints", "resources", "nodeSelector",
         "tolerations", "preRunningDeadlineSeconds", "ttlSecondsAfterFinished", "backoffLimit", "managedBy", "image",
         "podTemplate")  # fmt: skip


@dataclass
class RunState:
    """Tensors of the run's line and of the twin, and everything else as JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> RunState:
        """The state a checkpoint holds."""
        return cls(checkpoint.tensors, checkpoint.state)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one line."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


def identity(run: TrainingRun, line: Line, world: int = 1) -> dict[str, Any]:
    """What a checkpoint must agree with: the manifest's meaning, the host's shape and the number of ranks."""
    spec = run.spec.model_dump(mode="json", by_alias=True)
    for name in _FREE:
        spec.pop(name, None)
    shapes = sorted((name, list(p.shape), str(p.dtype)) for name, p in line.model.named_parameters())
    return {"manifest": digest(spec), "host": digest(shapes), "world": world}


def check_identity(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another model, another manifest or another number of ranks.

    Raises:
        CheckpointMismatch: saying which of them differs and what to do.
    """
    before, now = found.get("world", 1), wanted["world"]
    if before != now:
        raise CheckpointMismatch(
            f"the checkpoint is of a run with {before} rank{'s' * (before != 1)}, this one has {now}; a run's bits "
            f"depend on how its batches are split: resume with {before} (torchrun --nproc-per-node {before}), or start "
            "anew in another directory"
        )
    if found.get("host") != wanted["host"]:
        raise CheckpointMismatch(
            "the checkpoint is of another model (other parameter names or shapes); "
            "resume with the task and parameters the run began with, or start anew in another directory"
        )
    if found.get("manifest") != wanted["manifest"]:
        raise CheckpointMismatch(
            "the manifest changed since the checkpoint was written; resume with the one in the output directory "
            "(manifest.yaml), or start anew in another directory"
        )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes: equal exactly when all bits are."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tuple(value.shape)}|{value.dtype}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return total.hexdigest()
