"""What each process of an installation has to be told besides what every process is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper.oona.pulsar.settings import PulsarSettings
from esper.process import ProcessSettings
from esper.settings import Settings
from esper.tolaria.store.settings import CheckpointSettings


class PoolSettings(ProcessSettings):
    """What the workers of both pools are told."""

    workdir: Path = Field(description="Directory for work in progress; nothing in it outlives the process.")
    signing_key_file: Path = Field(description="Key that vouches for this pool's work; its `keygen` makes it.")
    idle_exit_seconds: float = Field(
        default=0.0, ge=0, description="Seconds without work after which the process ends, with 0; 0 is never."
    )
    turns_dir: Path | None = Field(
        default=None,
        description="Folder that pools on one machine share, so that nothing is built while something is measured. "
        "None: each works as it likes.",
    )


class TezzeretSettings(PoolSettings):
    """Settings of ``esper tezzeret work``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_TEZZERET_")

    processes: int = Field(default=1, ge=1, le=64, description="Builds at a time.")


class UrabraskSettings(PoolSettings):
    """Settings of ``esper urabrask work``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_URABRASK_")

    public_keys_file: Path = Field(description="Whose builds are measured: `public.json` of the pools' `keygen`.")


class DispatchSettings(ProcessSettings):
    """Settings of ``esper urza dispatch``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_DISPATCH_")

    build_timeout_seconds: float = Field(
        default=0.0, ge=0, le=86_400, description="Seconds a build may take; 0 takes each strategy's own limit."
    )
    benchmark_timeout_seconds: float = Field(
        default=120.0, ge=1, le=86_400, description="Seconds checking and measuring one kernel may take."
    )
    letters_seconds: float = Field(
        default=5.0, ge=1, le=3600, description="Seconds between two looks at the dead letters; each asks the broker."
    )
    round_seconds: float = Field(
        default=15.0, ge=0, le=3600,
        description="Seconds between two looks for artifacts that were entered without a message; 0 is never.",
    )  # fmt: skip
    noisy_rest_seconds: float = Field(
        default=900.0, ge=0, le=86_400,
        description="Seconds after which a kernel is measured anew that a restless machine could not measure; twice as "
        "long each time that is in vain, up to a day. 0 waits until somebody asks.",
    )  # fmt: skip
    sweep_interval_seconds: float = Field(
        default=21_600.0, ge=0, description="Seconds between two sweeps of the library; 0 is never."
    )
    sweep_grace_seconds: float = Field(
        default=86_400.0, ge=60, description="Seconds for which a sweep leaves alone what nobody needs."
    )


class TrainSettings(ProcessSettings):
    """Settings of ``esper train``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_TRAIN_")

    checkpoints: CheckpointSettings = Field(description="Where checkpoints are kept, if not in the output directory.")
    public_keys_file: Path = Field(
        description="Whose kernels are run: `public.json` of the pools' `keygen`; never a private key."
    )
    cache_dir: Path = Field(description="Directory for fetched kernels; several runs on a machine may share it.")
    status_token_file: Path | None = Field(
        default=None, description="File with the bearer token of the status page. None: loopback may see it, no other."
    )
    tell_seconds: float = Field(
        default=300.0, ge=0, le=86_400,
        description="Seconds a finished run waits for the broker to take its last reports; then it ends with 3.",
    )  # fmt: skip


class CtlSettings(Settings):
    """Settings of ``esper ctl``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_CTL_")

    pulsar: PulsarSettings = Field(description="The broker.")
    bus_key_file: Path = Field(description="Your key, which speaks for `person`; `esper oona keygen` makes it.")
    bus_trust_dir: Path = Field(description="Folder of the public keys whose answers are believed.")
