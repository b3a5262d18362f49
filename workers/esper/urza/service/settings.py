"""What the service can be told, by environment (``ESPER_URZA_…``) or by a YAML file; the environment wins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from esper.logs import LEVELS
from esper.objects import S3Settings, place_of
from esper.settings import Settings, load_settings

PREFIX = "ESPER_URZA_"


class ServiceSettings(Settings):
    """Settings of ``esper urza serve``. A secret is never shown by ``repr``, logs or errors."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told, in a pod `0.0.0.0`")
    port: int = Field(8460, ge=0, le=65535, description="TCP port; 0 takes a free one and logs it")
    database_url: SecretStr = Field(
        SecretStr(""), description="`postgresql://…` or `sqlite:///…`; required, nothing is assumed"
    )
    blobs: str = Field("", description="a directory, or `s3://bucket/prefix`; required, nothing is assumed")
    s3_endpoint: str = Field("", description="address of the object store; empty for the provider's own")
    s3_public_endpoint: str = Field("", description="its address as clients see it, for signed URLs; empty: the same")
    s3_region: str = Field("us-east-1", description="region requests are signed for")
    s3_access_key: SecretStr = Field(SecretStr(""), description="empty: the environment's or the machine's credentials")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="belongs to the access key")
    issuer: str = Field("", description="`iss` of the tokens to accept; required")
    audience: str = Field("esper-urza", description="`aud` of the tokens to accept")
    jwks_url: str = Field("", description="where the issuer's keys are; empty: found by OIDC discovery at the issuer")
    jwks_file: Path | None = Field(None, description="a file with the keys instead, such as `esper urza keygen` writes")
    jwks_ca_file: Path | None = Field(None, description="certificates to trust for the issuer; empty: the system's")
    jwks_token_file: Path | None = Field(None, description="a bearer token to ask for the keys with, read each time")
    roles_claim: str = Field("roles", description="claim that lists a caller's roles")
    subjects: dict[str, list[str]] = Field(
        {}, description="roles by `sub`, for issuers that can't put roles into tokens (Kubernetes); JSON"
    )
    leeway_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        10.0, description="seconds by which clocks of issuer and service may differ"
    )
    keys_seconds: Annotated[float, Field(gt=0, le=86_400)] = Field(
        300.0, description="seconds for which fetched keys are used; an issuer away for longer means 503"
    )
    requests_per_minute: int = Field(12_000, ge=1, description="of one caller; beyond: 429 with Retry-After")
    max_json_bytes: int = Field(4 << 20, ge=1024, description="largest JSON request in bytes; beyond: 413")
    max_blob_bytes: int = Field(1 << 30, ge=1024, description="largest file of an artifact in bytes; beyond: 413")
    inline_bytes: int = Field(
        256 << 10, ge=0, description="files up to this size in bytes come inside the answer: one request, not six"
    )
    cache_bytes: int = Field(64 << 20, ge=0, description="memory for such files in bytes; their digest is their name")
    url_seconds: int = Field(300, ge=5, le=604_800, description="seconds for which a signed URL works")
    threads: int = Field(16, ge=1, le=128, description="requests answered at once; others wait")
    database_wait_seconds: float = Field(5.0, gt=0, description="seconds to wait for another transaction's lock")
    shutdown_seconds: int = Field(20, ge=0, description="seconds requests may still take after SIGTERM")
    tls_cert_file: Path | None = Field(None, description="certificate chain; with the key: HTTPS only")
    tls_key_file: Path | None = Field(None, description="key of the certificate")
    log_level: str = Field("info", description="debug, info, warning or error")

    @model_validator(mode="after")
    def _complete(self) -> ServiceSettings:
        for name in ("database_url", "blobs", "issuer"):
            value = getattr(self, name)
            if not (value.get_secret_value() if isinstance(value, SecretStr) else value):
                raise ValueError(f"{name} must be set ({PREFIX}{name.upper()} or the settings file)")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together")
        if self.log_level not in LEVELS:
            raise ValueError("log_level must be debug, info, warning or error")
        return self

    def s3(self, *, public: bool = False) -> S3Settings | None:
        """The bucket, if blobs are in one; as clients see it with ``public``."""
        if not self.blobs.startswith("s3://"):
            return None
        bucket, prefix = place_of(self.blobs)
        endpoint = self.s3_public_endpoint if public and self.s3_public_endpoint else self.s3_endpoint
        return S3Settings(
            bucket, prefix, endpoint, self.s3_region, self.s3_access_key.get_secret_value(),
            self.s3_secret_key.get_secret_value(),
        )  # fmt: skip


def load(file: Path | None = None, **given: Any) -> ServiceSettings:
    """See ``esper.settings.load_settings``."""
    return load_settings(ServiceSettings, file, what="settings of the library's service", **given)
