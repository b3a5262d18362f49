"""What the operator can be told, by environment: ``ESPER_OPERATOR_…``."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from esper_operator.plan.kernel_artifact import Pools
from esper_operator.plan.pool import Target
from esper_operator.plan.settings import PodSettings

PREFIX = "ESPER_OPERATOR_"


class OperatorSettings(BaseSettings):
    """Settings of the operator; lists and maps are JSON."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    image: str = Field(min_length=1, description="image of training pods, for runs that name none; required")
    pull_policy: str = Field(
        "IfNotPresent", pattern="^(Always|IfNotPresent|Never)$", description="when nodes fetch images"
    )
    namespaces: tuple[str, ...] = Field((), description="namespaces to work in; empty: all of them")
    lease_namespace: str = Field("default", description="namespace of the Lease by which replicas choose a leader")
    identity: str = Field(default_factory=socket.gethostname, description="name of this replica; a pod's is its own")
    urza_url: str = Field("", description="address of the library's service, for training pods; empty: none")
    urza_audience: str = Field("esper-urza", description="audience of the tokens that pods show the library")
    urza_token_file: Path | None = Field(
        None, description="the operator's own token for the library; without, blueprints and kernels are left alone"
    )
    hardware: Target = Field("", description="what the pools build for, such as `x86_64-avx512`, as they log it")
    toolchain: str = Field(
        "", pattern="^([0-9a-f]{8,64})?$", description="hash of what the pools build with, as they log it"
    )
    pools_namespace: str = Field(
        "", description="namespace whose pools are scaled by what waits in the library; empty: somebody else does it"
    )
    pools_seconds: float = Field(5.0, ge=0.1, le=3600, description="seconds between two looks at what waits for pools")
    checkpoints_url: str = Field(
        "",
        pattern="^(s3://[^/]+.*)?$",
        description="`s3://bucket/prefix` below which every run keeps its checkpoints; empty: in its directory",
    )
    runs_volume: dict[str, Any] = Field(
        {"emptyDir": {}},
        description="volume source of run directories; only a shared claim lets another pod go on from a checkpoint",
    )
    pod_env: dict[str, str] = Field({}, description="variables of every training pod; nothing secret")
    pod_env_secrets: tuple[str, ...] = Field((), description="Secrets beside the run whose keys become variables")
    bus_key_secret: str = Field(
        "", description="Secret beside the runs with `key.pem`, which trainers sign messages with (`esper oona keygen`)"
    )
    bus_trust: str = Field("", description="ConfigMap beside the runs with the public keys that the bus trusts")
    kernel_keys: str = Field("", description="ConfigMap beside the runs with the pools' `public.json`")
    bus_trust_dir: Path | None = Field(
        None,
        description="folder of the public keys that trainers sign with; with it, progress is followed on the broker "
        "that `ESPER_PULSAR_…` names",
    )
    progress_seconds: float = Field(
        5.0,
        ge=0.1,
        le=3600,
        description="seconds that news of a run may wait, so that quick epochs are one write; not when a seed's stage "
        "changes",
    )
    pod_template: dict[str, Any] = Field(
        {}, description="partial pod template laid over every training pod, and under the run's own `podTemplate`"
    )
    batch_seconds: float = Field(
        0.5,
        ge=0,
        le=60,
        description="seconds in which further changes of a run's Job and pods, or of a status, are taken up together; "
        "a changed spec is looked at immediately",
    )
    grace_seconds: int = Field(30, ge=1, le=3600, description="seconds a pod has to write its checkpoint")
    workers: int = Field(16, ge=1, le=256, description="resources worked on at once")
    host: str = Field("127.0.0.1", description="address of /healthz, /readyz and /metrics; in a pod `0.0.0.0`")
    port: int = Field(8480, ge=0, le=65535, description="TCP port of these; 0 takes a free one and logs it")
    audit_seconds: float = Field(120.0, gt=0, description="seconds between two comparisons of watches and cluster")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")

    @field_validator("pools_namespace")
    @classmethod
    def _countable(cls, value: str, info: ValidationInfo) -> str:
        if value and not (info.data.get("urza_url") and info.data.get("urza_token_file")):
            raise ValueError(f"what waits is asked of the library: set {PREFIX}URZA_URL and {PREFIX}URZA_TOKEN_FILE")
        return value

    def pools(self) -> Pools:
        """What is known of the pools."""
        return Pools(self.hardware, self.toolchain)

    def pods(self) -> PodSettings:
        """What the plans need of them."""
        return PodSettings(
            image=self.image,
            pull_policy=self.pull_policy,
            urza_url=self.urza_url,
            urza_audience=self.urza_audience,
            checkpoints_url=self.checkpoints_url,
            runs=self.runs_volume,
            env=self.pod_env,
            env_secrets=self.pod_env_secrets,
            bus_key_secret=self.bus_key_secret,
            bus_trust=self.bus_trust,
            kernel_keys=self.kernel_keys,
            template=self.pod_template,
            grace_seconds=self.grace_seconds,
        )


def load() -> OperatorSettings:
    """Settings of the environment; raises ``ValueError`` that names every wrong one and quotes no value."""
    try:
        return OperatorSettings()
    except ValidationError as error:
        problems = [f"{PREFIX}{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in error.errors()]
        raise ValueError("\n".join(problems)) from error
