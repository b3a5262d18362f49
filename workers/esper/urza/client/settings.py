"""How a process reaches the library's service."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from esper.settings import Settings
from esper.urza.client.library import RemoteLibrary
from esper.urza.client.transport import TransportSettings, token_from_file

PREFIX = "ESPER_LIBRARY_"


class LibrarySettings(Settings):
    """Every field can be set as ``ESPER_LIBRARY_<FIELD>`` or in the section ``library`` of a process's settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    url: str = Field(description="Address of the library's service, http(s)://HOST:PORT.")
    token_file: Path = Field(description="File with the bearer token; read at every request, so it may be renewed.")
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust for TLS. None: those of the system."
    )
    patience_seconds: float = Field(
        default=30.0, gt=0, le=600, description="Seconds a request is repeated while the service is away."
    )

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ValueError("is not an address") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http://HOST:PORT or https://HOST:PORT")
        if parts.username or parts.password:
            raise ValueError("must hold no credentials; use token_file")
        return value.rstrip("/")

    def open(self, transport: TransportSettings | None = None) -> RemoteLibrary:
        """A client, as patient as these settings say unless ``transport`` does; nothing is asked yet."""
        patience = transport or TransportSettings(patience=self.patience_seconds)
        return RemoteLibrary(self.url, token_from_file(self.token_file), patience, ca_file=self.ca_file)
