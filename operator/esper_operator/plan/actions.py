"""What a plan asks the cluster to do. Each may be done twice: the second time changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper_operator.reasons import Reason

Object = dict[str, Any]


@dataclass(frozen=True)
class Create:
    """Make an object; one of its name that has the same owner will do, one of another owner is a refusal."""

    object: Object


@dataclass(frozen=True)
class Apply:
    """Server-side apply to one object that exists, and to no other that came to bear its name since."""

    object: Object
    uid: str


@dataclass(frozen=True)
class Adjust:
    """Change some fields, and only those, of one object that exists; otherwise as ``Apply``."""

    kind: str
    name: str
    uid: str
    patch: Object


@dataclass(frozen=True)
class Delete:
    """Delete one object that exists; otherwise as ``Apply``."""

    kind: str
    name: str
    uid: str


Action = Create | Apply | Adjust | Delete


@dataclass(frozen=True)
class Note:
    """Something to tell users as an Event."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """What should be done: ``status`` is None where it is right already, ``after`` when to look again, in seconds."""

    actions: tuple[Action, ...] = ()
    status: Object | None = None
    notes: tuple[Note, ...] = field(default=())
    after: float | None = None
