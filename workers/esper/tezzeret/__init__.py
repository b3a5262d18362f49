"""Tezzeret: the compiler. Turns blueprints into signed kernel artifacts, each in a process of its own."""

from __future__ import annotations

from esper.tezzeret.building import Builder, BuildRequest, BuildVerdict, build_artifact

__all__ = ["BuildRequest", "BuildVerdict", "Builder", "build_artifact"]
