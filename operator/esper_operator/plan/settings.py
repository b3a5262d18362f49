"""What an operator was told about the pods it makes; the same for every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NONROOT = 65532
"""User and group of the images' processes."""


@dataclass(frozen=True)
class PodSettings:
    """Image, addresses and volumes of training pods.

    Attributes:
        image: for runs that name none.
        urza_url, urza_audience: the library's service, and the audience of the tokens that pods show it.
        checkpoints_url: ``s3://bucket/prefix`` below which each run keeps its checkpoints; empty: in its directory.
        runs: the volume source that keeps run directories, in Kubernetes' form; pods that die must find them again.
        env: plain variables of every pod; nothing secret.
        env_secrets: Secrets (in the run's namespace) whose keys become variables; a missing one is an error of the pod.
        bus_key_secret: Secret beside the run with ``key.pem``, which its trainer signs messages with.
        bus_trust, kernel_keys: ConfigMaps beside the run: public keys of the bus, and ``public.json`` of the pools.
        template: a partial pod template laid over what the operator makes, and under the run's own.
        grace_seconds: between SIGTERM and SIGKILL: long enough for a checkpoint.
    """

    image: str
    pull_policy: str = "IfNotPresent"
    urza_url: str = ""
    urza_audience: str = "esper-urza"
    checkpoints_url: str = ""
    runs: Mapping[str, Any] = field(default_factory=lambda: {"emptyDir": {}})
    env: Mapping[str, str] = field(default_factory=dict)
    env_secrets: tuple[str, ...] = ()
    bus_key_secret: str = ""
    bus_trust: str = ""
    kernel_keys: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    grace_seconds: int = 30
