"""How the broker is reached: one set of settings for every process, from the environment or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from esper import settings
from esper.errors import BadInput

PREFIX = "ESPER_PULSAR_"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class PulsarSettings(settings.Settings):
    """Every field can be set as ``ESPER_PULSAR_<FIELD>`` or in a YAML file; the environment goes first."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    service_url: str = Field(
        validation_alias=AliasChoices("service_url", f"{PREFIX}SERVICE_URL", "PULSAR_SERVICE_URL"),
        description="Address of the broker, pulsar://HOST:PORT or pulsar+ssl://HOST:PORT.",
    )
    admin_url: str | None = Field(
        default=None,
        description="Address of its REST interface, http(s)://HOST:PORT. Provisioning and backlog metrics need it; "
        "workers and trainers do without.",
    )
    tenant: Name = Field(default="esper", description="Tenant that holds the namespace.")
    namespace: Name = Field(
        default="default",
        description="Namespace that holds the topics; one for each installation that shares a broker.",
    )
    token: SecretStr | None = Field(
        default=None, description="Token the broker knows this process by. Never shown; prefer token_file."
    )
    token_file: Path | None = Field(
        default=None, description="File with the token, such as a mounted Secret; read again at every connection."
    )
    tls_ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for TLS. None: those that come with the client."
    )
    tls_validate_hostname: bool = Field(
        default=True,
        description="Whether the server's certificate must name the host; the client's own default is not.",
    )
    plaintext_token: bool = Field(
        default=False,
        description="Whether a token may be sent without TLS to another host; a network policy must hold it.",
    )
    connect_timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="Seconds until a connection attempt is given up."
    )
    operation_timeout_seconds: float = Field(
        default=10.0,
        ge=1,
        le=300,
        description="Seconds until opening a producer or consumer is given up and tried again.",
    )
    redelivery_delay_seconds: float = Field(
        default=1.0, ge=0.1, le=3600,
        description="Seconds until refused work is offered again; long enough for another worker to take it.",
    )  # fmt: skip
    outbox_messages: int = Field(
        default=1024, ge=1, le=65_536,
        description="Messages of one topic that may wait for the broker's confirmation; at 10 KB each this is 10 MB.",
    )  # fmt: skip
    flush_seconds: float = Field(
        default=5.0,
        ge=0,
        le=300,
        description="Seconds closing waits for the outbox; what is left then is logged as lost.",
    )

    @field_validator("service_url")
    @classmethod
    def _service(cls, value: str) -> str:
        return _url(value, ("pulsar", "pulsar+ssl"))

    @field_validator("admin_url")
    @classmethod
    def _admin(cls, value: str | None) -> str | None:
        return None if value is None else _url(value, ("http", "https")).rstrip("/")

    @model_validator(mode="after")
    def _agree(self) -> PulsarSettings:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both set; keep one")
        if (self.token or self.token_file) and not self.plaintext_token:
            for name, url in (("service_url", self.service_url), ("admin_url", self.admin_url)):
                parts = urlsplit(url or "")
                if parts.scheme in ("pulsar", "http") and parts.hostname not in _LOOPBACK:
                    raise ValueError(
                        f"{name} has no TLS, so the token could be read on the way to {parts.hostname}; use "
                        f"{'pulsar+ssl' if parts.scheme == 'pulsar' else 'https'}://, or set plaintext_token"
                    )
        return self

    def current_token(self) -> str | None:
        """The token to show now; raises ``BadInput`` when its file can't be read."""
        if self.token is not None:
            return self.token.get_secret_value()
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(f"token_file {self.token_file}: {error.strerror or error}") from error
        if not token:
            raise BadInput(f"token_file {self.token_file}: is empty")
        return token

    def topic(self, name: str) -> str:
        """The broker's full name of a topic."""
        return f"persistent://{self.tenant}/{self.namespace}/{name}"


def load_settings(file: Path | None = None, **given: Any) -> PulsarSettings:
    """See ``esper.settings.load_settings``."""
    return settings.load_settings(PulsarSettings, file, what="settings of the broker", **given)


def _url(value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is not an address") from None
    if parts.scheme not in schemes or not parts.hostname or (port is None and parts.scheme.startswith("pulsar")):
        raise ValueError(f"must look like {schemes[0]}://HOST:PORT or {schemes[1]}://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError("must hold no credentials; use token or token_file")
    return value
