"""What every process of the installation has to be told; each kind of process adds its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from esper.oona.pulsar.settings import PulsarSettings
from esper.settings import Settings
from esper.urza.client.settings import LibrarySettings


class ProcessSettings(Settings):
    """Base of the settings of a process; a subclass sets its ``env_prefix``, such as ``ESPER_TEZZERET_``."""

    pulsar: PulsarSettings = Field(description="The broker.")
    library: LibrarySettings = Field(description="The library's service.")
    bus_key_file: Path = Field(description="Key this process signs messages with; `esper oona keygen` makes it.")
    bus_trust_dir: Path = Field(description="Folder of the public keys whose messages are believed; followed.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error."
    )
    http_host: str = Field(
        default="127.0.0.1", description="Address for health and metrics; loopback unless told, in a pod 0.0.0.0."
    )
    http_port: int = Field(
        default=0, ge=0, le=65535, description="TCP port for health and metrics; 0 takes a free one and logs it."
    )
