"""Stores of kopf that keep nothing.

kopf compares each object it hears of with what it has stored about it, for handlers of changes, and copies it for that
several times. There are no such handlers here: plans compare what is wanted with what there is.
"""

from __future__ import annotations

from typing import Any

import kopf


class NoDiffs(kopf.DiffBaseStorage):
    """Every object looks the same, and none was seen before."""

    def build(self, **_: Any) -> Any:
        """See ``kopf.DiffBaseStorage``."""
        return {}

    def fetch(self, **_: Any) -> None:
        """See ``kopf.DiffBaseStorage``."""

    def store(self, **_: Any) -> None:
        """See ``kopf.DiffBaseStorage``."""


class NoProgress(kopf.ProgressStorage):
    """No handler has begun anything."""

    def fetch(self, **_: Any) -> None:
        """See ``kopf.ProgressStorage``."""

    def store(self, **_: Any) -> None:
        """See ``kopf.ProgressStorage``."""

    def purge(self, **_: Any) -> None:
        """See ``kopf.ProgressStorage``."""

    def touch(self, **_: Any) -> None:
        """See ``kopf.ProgressStorage``."""

    def clear(self, *, essence: Any) -> Any:
        """See ``kopf.ProgressStorage``."""
        return essence
