"""Helm for tests, built once from source into the tools folder; ``HELM`` names one to be used instead."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import parts

VERSION = "v4.2.4"
MODULE = "helm.sh/helm/v4/cmd/helm"


def program() -> Path:
    """Helm, built when it is not there; raises ``PartMissing``."""
    if given := os.environ.get("HELM", ""):
        return Path(given)
    folder = parts.TOOLS / f"helm-{VERSION}"
    path = folder / "helm"
    with parts.locked(parts.TOOLS / "helm.lock"):
        if not path.exists():
            if shutil.which("go") is None:
                raise parts.PartMissing("Helm can't be built: there is no Go (1.26 or newer) on the PATH")
            build = folder.with_suffix(".new")
            subprocess.run(
                ["go", "install", "-trimpath", "-ldflags", "-s -w", f"{MODULE}@{VERSION}"],
                check=True, env=os.environ | {"GOBIN": str(build), "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
            )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)
            build.rename(folder)
    return path


def helm() -> Path:
    """Helm for a test; it is skipped, or fails in CI, where there is none."""
    try:
        return program()
    except (parts.PartMissing, subprocess.CalledProcessError) as missing:
        parts.unavailable(f"Helm can't be had: {missing}")
