"""What a bank can be told, what it answers, and how a signed command becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from esper.kasmina.seed import SeedEvent
from leyline.lifecycle import Actor, Stage
from leyline.resources.enums import AlphaSchedule, Blend, Objective


class CommandKind(StrEnum):
    """What a seed or a slot is told to do."""

    GERMINATE = "germinate"
    ADVANCE = "advance"
    CANCEL = "cancel"
    CULL = "cull"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class Command:
    """One command. GERMINATE names a slot and an artifact, every other kind a seed.

    ``target`` may say which stage ADVANCE is meant to reach; a command whose target is not the next stage is refused.
    ``blend``, ``objective`` and ``schedule`` of None take the bank's settings.
    """

    kind: CommandKind
    slot: str = ""
    seed: str | None = None
    target: Stage | None = None
    artifact_id: str = ""
    blueprint: str = ""
    blend: Blend | None = None
    objective: Objective | None = None
    schedule: AlphaSchedule | None = None
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    actor: Actor = Actor.TAMIYO

    @classmethod
    def germinate(
        cls,
        slot: str,
        artifact_id: str,
        *,
        blueprint: str = "",
        blend: Blend | None = None,
        objective: Objective | None = None,
        schedule: AlphaSchedule | None = None,
        reason: str = "",
        numbers: Mapping[str, float] | None = None,
    ) -> Command:
        """Start a seed in a slot with a kernel."""
        return cls(
            CommandKind.GERMINATE,
            slot=slot,
            artifact_id=artifact_id,
            blueprint=blueprint,
            blend=blend,
            objective=objective,
            schedule=schedule,
            reason=reason,
            numbers=numbers or {},
        )

    @classmethod
    def advance(
        cls, seed: str, *, target: Stage | None = None, reason: str = "", numbers: Mapping[str, float] | None = None
    ) -> Command:
        """Move a seed that is ready to its next stage, if the gates let it."""
        return cls(CommandKind.ADVANCE, seed=seed, target=target, reason=reason, numbers=numbers or {})

    @classmethod
    def cancel(cls, seed: str, *, reason: str = "") -> Command:
        """Stop a seed before it had any effect."""
        return cls(CommandKind.CANCEL, seed=seed, reason=reason)

    @classmethod
    def cull(cls, seed: str, *, reason: str = "", actor: Actor = Actor.TAMIYO) -> Command:
        """Switch a seed off."""
        return cls(CommandKind.CULL, seed=seed, reason=reason, actor=actor)

    @classmethod
    def rollback(cls, seed: str, *, reason: str = "", actor: Actor = Actor.TOLARIA) -> Command:
        """Lock a seed after everything went back to a checkpoint."""
        return cls(CommandKind.ROLLBACK, seed=seed, reason=reason, actor=actor)


@dataclass(frozen=True)
class Applied:
    """What became of a command.

    ``accepted``: the ordered transition happened. ``reason``: why, or why not. ``error``: the class of what refused
    it, "" if nothing did. ``event``: the transition that happened, which after a failed gate is the one to CULLED.
    """

    kind: CommandKind | None
    accepted: bool
    reason: str
    seed: str | None = None
    error: str = ""
    event: SeedEvent | None = None
