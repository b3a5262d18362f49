"""What a plan asks the cluster and the library to do. Each may be done twice: the second time changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper_operator.reasons import Reason
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

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


@dataclass(frozen=True)
class Register:
    """Enter a design in the library under its name."""

    name: str
    ir: BlueprintIR
    risk: float
    approved: bool


@dataclass(frozen=True)
class Begin:
    """Enter a wanted artifact in the library; its id follows from the rest."""

    artifact_id: str
    blueprint: str
    interface: Interface
    strategy: str
    hardware: str
    toolchain: str


ClusterAction = Create | Apply | Adjust | Delete
LibraryAction = Register | Begin
Action = ClusterAction | LibraryAction


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
