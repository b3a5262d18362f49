"""Seeds as JSON values and back, exact to the last bit of every number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from esper.kasmina.gates import GateResult, Judged
from esper.kasmina.seed import Scale, Seed, SeedEvent
from leyline.lifecycle import Actor, Gate, Stage
from leyline.resources.enums import AlphaSchedule, Blend, Objective


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict that came back from a checkpoint."""

    passed: bool
    evidence: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The evidence."""
        return dict(self.evidence)


def number(value: float) -> float | str:
    """A number as JSON; what JSON can't hold (infinities, NaN) as text."""
    return value if math.isfinite(value) else str(value)


def seed_to_dict(seed: Seed) -> dict[str, Any]:
    """Everything of a seed but its tensors."""
    return {
        "id": seed.id,
        "slot": seed.slot,
        "ordinal": seed.ordinal,
        "position": seed.position,
        "artifact_id": seed.artifact_id,
        "blueprint": seed.blueprint,
        "blend": str(seed.blend),
        "objective": str(seed.objective),
        "schedule": str(seed.schedule),
        "stage": seed.stage.name,
        "ready": seed.ready,
        "entered_epoch": seed.entered_epoch,
        "reason": seed.reason,
        "ramp_done": seed.ramp_done,
        "ramp_steps": seed.ramp_steps,
        "epochs_in_stage": seed.epochs_in_stage,
        "touched": seed.touched,
        "faults": seed.faults,
        "fault": seed.fault,
        "reference_only": seed.reference_only,
        "switched_off": seed.switched_off,
        "full": seed.full,
        "scale": [seed.scale.measured, number(seed.scale.branch), number(seed.scale.host)],
        "warm_gradient": number(seed.warm_gradient),
        "trainable": seed.trainable,
        "verdict": _verdict_to_dict(seed.verdict),
        "history": [_event_to_dict(event) for event in seed.history],
        "learner": seed.learner.export_state()[1] if seed.learner is not None else None,
    }


def seed_from_dict(data: Mapping[str, Any]) -> Seed:
    """The inverse of :func:`seed_to_dict`, without kernel and learner."""
    measured, branch, host = data["scale"]
    verdict = data["verdict"]
    seed = Seed(
        id=data["id"],
        slot=data["slot"],
        ordinal=data["ordinal"],
        position=data["position"],
        artifact_id=data["artifact_id"],
        blueprint=data["blueprint"],
        blend=Blend(data["blend"]),
        objective=Objective(data["objective"]),
        schedule=AlphaSchedule(data["schedule"]),
        stage=Stage[data["stage"]],
        entered_epoch=data["entered_epoch"],
        reason=data["reason"],
        history=[_event_from_dict(event, data) for event in data["history"]],
        alpha_buffer=torch.zeros(()),
        ramp_done=data["ramp_done"],
        ramp_steps=data["ramp_steps"],
        epochs_in_stage=data["epochs_in_stage"],
        touched=data["touched"],
        faults=data["faults"],
        fault=data["fault"],
        reference_only=data["reference_only"],
        switched_off=data["switched_off"],
        full=data["full"],
        scale=Scale(measured, float(branch), float(host)),
        warm_gradient=float(data["warm_gradient"]),
        trainable=data["trainable"],
    )
    seed.verdict = None if verdict is None else StoredVerdict(verdict["passed"], _numbers_back(verdict["evidence"]))
    seed.ready = data["ready"]
    return seed


def _verdict_to_dict(verdict: Judged | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"passed": bool(verdict.passed), "evidence": _numbers(verdict.to_dict())}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: {"float": str(v)} if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}


def _numbers_back(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(v["float"]) if isinstance(v, dict) and set(v) == {"float"} else v for key, v in values.items()}


def _event_to_dict(event: SeedEvent) -> dict[str, Any]:
    return {
        "source": event.source.name,
        "target": event.target.name,
        "actor": str(event.actor),
        "epoch": event.epoch,
        "reason": event.reason,
        "numbers": _numbers(event.numbers),
        "gates": [
            {"gate": str(g.gate), "passed": g.passed, "reason": g.reason, "numbers": _numbers(g.numbers)}
            for g in event.gates
        ],
    }


def _event_from_dict(data: Mapping[str, Any], seed: Mapping[str, Any]) -> SeedEvent:
    return SeedEvent(
        seed=seed["id"],
        slot=seed["slot"],
        source=Stage[data["source"]],
        target=Stage[data["target"]],
        actor=Actor(data["actor"]),
        epoch=data["epoch"],
        reason=data["reason"],
        numbers=_numbers_back(data["numbers"]),
        gates=tuple(
            GateResult(Gate(g["gate"]), g["passed"], g["reason"], _numbers_back(g["numbers"])) for g in data["gates"]
        ),
        artifact_id=seed["artifact_id"],
        blueprint=seed["blueprint"],
    )
