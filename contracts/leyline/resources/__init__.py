"""The custom resources as models: one source for the CRDs, the command line and the SDK's configuration."""

from __future__ import annotations

from leyline.resources.base import API_VERSION
from leyline.resources.blueprint import Blueprint, BlueprintSpec, BlueprintStatus, BlueprintTarget, InterfaceSpec
from leyline.resources.cluster import ResourcesSpec, TolerationSpec
from leyline.resources.growth import ControllerSpec, FixedSeed, JudgeSpec, KernelsSpec, SeedsSpec
from leyline.resources.kernel_artifact import KernelArtifact, KernelArtifactSpec, KernelArtifactStatus
from leyline.resources.loading import ManifestErrors, load, load_blueprint, load_kernel_artifact
from leyline.resources.meta import Metadata
from leyline.resources.training import (
    BudgetSpec,
    CheckpointsSpec,
    GovernorSpec,
    OptimizerSpec,
    ScheduleSpec,
    SlotSpec,
    TaskSpec,
    TrainingSpec,
)
from leyline.resources.training_run import TrainingRun, TrainingRunSpec, TrainingRunStatus

__all__ = [
    "API_VERSION",
    "Blueprint",
    "BlueprintSpec",
    "BlueprintStatus",
    "BlueprintTarget",
    "BudgetSpec",
    "CheckpointsSpec",
    "ControllerSpec",
    "FixedSeed",
    "GovernorSpec",
    "InterfaceSpec",
    "JudgeSpec",
    "KernelArtifact",
    "KernelArtifactSpec",
    "KernelArtifactStatus",
    "KernelsSpec",
    "ManifestErrors",
    "Metadata",
    "OptimizerSpec",
    "ResourcesSpec",
    "ScheduleSpec",
    "SeedsSpec",
    "SlotSpec",
    "TaskSpec",
    "TolerationSpec",
    "TrainingRun",
    "TrainingRunSpec",
    "TrainingRunStatus",
    "TrainingSpec",
    "load",
    "load_blueprint",
    "load_kernel_artifact",
]
