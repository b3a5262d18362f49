"""What a saved model's directory holds, and the models that check ``lineage.json`` before anything is built from it.

model/
  host.safetensors      the host's parameters and buffers, under the host's own names
  kernels.safetensors   the kernels' parameters, as <seed id>/<parameter>
  lineage.json          what the model is: host, slots, kernels, where each came from, digests of the two files
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

HOST_FILE = "host.safetensors"
KERNELS_FILE = "kernels.safetensors"
LINEAGE_FILE = "lineage.json"
SCHEMA: Literal[1] = 1

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """Digest and size in bytes of a file."""

    sha256: Digest
    size: int = Field(ge=0)


class TaskEntry(_Part):
    """The task whose model is the host: enough to build it again."""

    ref: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0


class HostEntry(_Part):
    """The host: its class in words, and the task that builds it where there is one."""

    type: str
    parameters: int
    task: TaskEntry | None = None


class KernelEntry(_Part):
    """One kernel: how to compute it, how it joins, where it came from, and each look the judge took at it.

    ``alpha`` is null where it is exactly 1.
    """

    seed: str
    artifact_id: str
    blueprint: str
    ir: dict[str, Any]
    digest: Digest
    interface: dict[str, Any]
    blend: Literal["Residual", "Convex"]
    alpha: float | None
    stage: str
    verdicts: list[dict[str, Any]] = Field(default_factory=list)


class SlotEntry(_Part):
    """One slot with its kernels in the order they are applied."""

    id: str
    module_path: str
    aliases: list[str] = Field(default_factory=list)
    chunk: int = Field(ge=0)
    chunks: int = Field(ge=1)
    kernels: list[KernelEntry] = Field(min_length=1)


class Lineage(_Part):
    """The content of ``lineage.json``; ``sha256`` is the digest of all the rest in canonical JSON."""

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    host: HostEntry
    slots: list[SlotEntry]
    files: dict[str, FileEntry]
    run: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: Digest

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
