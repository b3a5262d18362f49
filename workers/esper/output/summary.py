"""``summary.json``: what a run came to, in one small file that programs read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from esper.errors import OutputDirectoryError
from esper.output.files import disk_errors, write_atomic
from esper.output.plain import plain

SUMMARY_FILE = "summary.json"
SUMMARY_VERSION: Literal[1] = 1

Phase = Literal["Completed", "Failed", "Interrupted", "Suspended"]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite_pair_or_none(value: Any) -> Any:
    known = isinstance(value, tuple | list) and all(_finite_or_none(edge) is not None for edge in value)
    return value if known else None


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
Pair = Annotated[tuple[float, float] | None, BeforeValidator(_finite_pair_or_none)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Score(_Part):
    """Mean loss and metric over one split, after ``epoch``."""

    epoch: int
    loss: Number
    metric: Number


class SplitResult(_Part):
    """``best`` is at the epoch that was best on the *controller* split, for both splits; ``final`` at the last."""

    best: Score | None = None
    final: Score | None = None


class SeedSummary(_Part):
    """One seed from germination to its last stage."""

    id: str
    slot: str
    blueprint: str
    kernel: str
    strategy: str
    stage: str
    germinated_epoch: int
    finished_epoch: int | None = None
    verdict: dict[str, Any] = Field(default_factory=dict, description="numbers of the comparison with the twin")
    reasons: list[str] = Field(default_factory=list, description="why it was germinated, advanced, kept or dropped")


class KernelSummary(_Part):
    """One kernel of the portfolio and what was measured of it."""

    id: str
    blueprint: str
    strategy: str
    state: str
    ratio: Number = Field(None, description="median latency over the fast kernel's; below 1 is faster")
    interval: Pair = Field(None, description="bootstrap interval of the ratio")
    latency_ms: Number = None
    memory_mb: Number = None
    tags: list[str] = Field(default_factory=list)
    cause: str = Field("", description="why it was rejected, or is not used")


class CurvePoint(_Part):
    """One epoch of the control."""

    epoch: int
    train_loss: Number = None
    controller_loss: Number = None
    controller_metric: Number = None


class Control(_Part):
    """The same run with growth switched off, at an equal budget."""

    name: str = "never grown"
    parameters: int
    training_flops: float
    epochs: int
    controller: SplitResult
    report: SplitResult
    curve: list[CurvePoint] = Field(default_factory=list)


class Summary(_Part):
    """What a run came to. FLOPs count forward and backward; memory is in MiB, latency in milliseconds."""

    version: Literal[1] = SUMMARY_VERSION
    phase: Phase
    reason: str = Field("", description="one sentence: why the run is in this phase")
    name: str
    task: str
    seed: int
    epochs: int
    steps: int
    metric: str
    higher_is_better: bool
    controller: SplitResult
    report: SplitResult
    host_parameters: int
    parameters: int
    trainable_parameters: int
    training_flops: float
    flops_on_culled_seeds: float = 0.0
    flops_on_twins: float = 0.0
    flops_on_probes: float = 0.0
    seeds_by_stage: dict[str, int] = Field(default_factory=dict)
    seeds: list[SeedSummary] = Field(default_factory=list)
    kernels: list[KernelSummary] = Field(default_factory=list)
    strategies_unavailable: dict[str, str] = Field(default_factory=dict)
    longest_step_ms: Number = None
    median_step_ms: Number = None
    wall_seconds: float
    kernel_wait_seconds: float = 0.0
    rollbacks: int = 0
    control: Control | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Write ``summary.json`` into ``directory`` in one step and return its path.

        Raises:
            StorageFull, OutputDirectoryError: the disk refuses.
        """
        path = Path(directory) / SUMMARY_FILE
        text = json.dumps(plain(self.model_dump(mode="python")), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(path, text.encode("utf-8", "backslashreplace") + b"\n")
        return path


def read_summary(directory: Path) -> Summary:
    """Read ``summary.json`` of a run.

    Raises:
        OutputDirectoryError: there is none, it is of another version, or it was not written by Esper.
    """
    path = Path(directory) / SUMMARY_FILE
    if not path.exists():
        raise OutputDirectoryError(f"{path} does not exist: {directory} is not a run, or the run has not ended yet")
    with disk_errors(path, "reading"):
        data = path.read_bytes()
    try:
        content = json.loads(data)
    except ValueError as error:
        raise OutputDirectoryError(f"{path} is not JSON ({error})") from error
    version = content.get("version") if isinstance(content, dict) else None
    if version != SUMMARY_VERSION:
        raise OutputDirectoryError(
            f"{path} has version {version!r}; this Esper reads version {SUMMARY_VERSION}, use the one that wrote it"
        )
    try:
        return Summary.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OutputDirectoryError(f"{path}: {where}: {first['msg']}") from error
