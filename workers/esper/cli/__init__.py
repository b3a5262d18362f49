"""The ``esper`` command. Importing it loads neither torch nor any organ: each command imports what it needs."""

from __future__ import annotations

from esper.cli.app import app, main

__all__ = ["app", "main"]
