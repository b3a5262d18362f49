"""Helm for tests, built once from source into the tools folder; ``HELM`` names one to be used instead."""

from __future__ import annotations

import os
from pathlib import Path

import parts

VERSION = "v4.2.4"
MODULE = "helm.sh/helm/v4/cmd/helm"


def program() -> Path:
    """Helm, built when it is not there; raises ``PartMissing``."""
    if given := os.environ.get("HELM", ""):
        return Path(given)
    folder = parts.TOOLS / f"helm-{VERSION}"
    parts.built(folder, "Helm", lambda into: parts.go_install(f"{MODULE}@{VERSION}", into))
    return folder / "helm"


def helm() -> Path:
    """Helm for a test; it is skipped, or fails in CI, where there is none."""
    try:
        return program()
    except parts.PartMissing as missing:
        parts.unavailable(f"Helm can't be had: {missing}")
