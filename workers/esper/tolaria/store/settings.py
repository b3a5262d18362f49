"""Where checkpoints in a bucket are and how they are reached, from the environment.

The place is not part of the manifest: it says where a run works, not what it is. Credentials are the run's own and are
never those of the library.
"""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from esper.objects import S3Settings, place_of
from esper.settings import Settings

PREFIX = "ESPER_CHECKPOINTS_"


class CheckpointSettings(Settings):
    """Every field can be set as ``ESPER_CHECKPOINTS_<FIELD>``; what the command line says goes first."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    url: str = Field("", description="`s3://bucket/prefix` of this run alone; empty: the output directory")
    endpoint: str = Field("", description="address of the object store; empty for the provider's own")
    region: str = Field("us-east-1", description="region requests are signed for")
    access_key: SecretStr = Field(SecretStr(""), description="empty: the environment's or the machine's credentials")
    secret_key: SecretStr = Field(SecretStr(""), description="belongs to the access key")
    ahead: int = Field(
        2, ge=1, le=100, description="checkpoints that may be on their way to the bucket; beyond, training waits"
    )
    patience_seconds: float = Field(
        600.0, gt=0, le=86_400, description="seconds the bucket may be away before the run fails (exit code 3)"
    )
    stop_seconds: float = Field(
        20.0, ge=0, le=3600, description="seconds a stopping trainer waits for the bucket to have its last checkpoint"
    )
    read_seconds: float = Field(30.0, gt=0, le=3600, description="seconds one request may take")
    attempts: int = Field(3, ge=1, le=20, description="how often a request is made before the store counts as away")

    def s3(self) -> S3Settings:
        """The bucket; raises ``BadInput`` when ``url`` is no place in one."""
        bucket, prefix = place_of(self.url)
        return S3Settings(
            bucket, prefix, self.endpoint, self.region, self.access_key.get_secret_value(),
            self.secret_key.get_secret_value(), read_seconds=self.read_seconds, attempts=self.attempts,
        )  # fmt: skip
