"""The reconcile of a blueprint: its design in the library, and a KernelArtifact for each of its targets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from esper_operator.keys import blueprint_labels
from esper_operator.plan.actions import Action, Create, Delete, Object, Plan, Register
from esper_operator.plan.conditions import Verdict, news, revised
from esper_operator.plan.observed import Refusal
from esper_operator.plan.status import plain
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import Reason
from leyline import canonical
from leyline.resources import API_VERSION, Blueprint, BlueprintStatus, BlueprintTarget
from leyline.resources.enums import KernelPhase, Tier

LONGEST_NAME = 50
AGAIN_SECONDS, REFUSED_SECONDS, ENTERED_SECONDS = 300.0, 10.0, 0.5
"""When the library is asked again: whether the name still means this design, whether it would have it by now, and
whether it has what it was just given."""
TIERS = ((0.25, Tier.TRUSTED), (0.5, Tier.STANDARD), (0.75, Tier.EXPERIMENTAL))
"""Upper ends of the library's risk bands."""


@dataclass(frozen=True, slots=True)
class ChildSeen:
    """A KernelArtifact: whose it is and how far."""

    name: str
    uid: str
    owner: str
    phase: str


@dataclass(frozen=True)
class Entry:
    """What a name means in the library."""

    digest: str
    risk: float
    approved: bool


@dataclass(frozen=True)
class BlueprintSeen:
    """What there is: the library's entry under the name, if any, and the blueprint's children."""

    entry: Entry | None = None
    children: tuple[ChildSeen, ...] = ()
    refusal: Refusal | None = None


def plan(blueprint: Blueprint, seen: BlueprintSeen, now: datetime) -> Plan:
    """What to do about a blueprint.

    A design is registered once for each change of the spec. When its name means another design later, somebody else
    registered that: it is said and not fought over.
    """
    ir = blueprint.spec.to_ir()
    verdict = registered(blueprint, ir.digest(), seen)
    behind = seen.refusal is None and must_register(blueprint, verdict, seen.entry)
    status = revised_status(blueprint, ir.digest(), seen, verdict, now, behind=behind)
    told = news(before(blueprint.status), verdict.reason, verdict.message)
    if seen.refusal is not None:
        return Plan((), status, told, after=REFUSED_SECONDS)
    if behind:
        spec = blueprint.spec
        return Plan(
            (Register(blueprint.metadata.name, ir, spec.risk, spec.approved),), status, told, after=ENTERED_SECONDS
        )
    return Plan(children(blueprint, seen.children), status, told, after=AGAIN_SECONDS)


def must_register(blueprint: Blueprint, verdict: Verdict, entry: Entry | None) -> bool:
    """The library does not have the design, or not as the spec has it since it changed."""
    if entry is None or verdict.reason is Reason.REGISTERING:
        return True
    spec = blueprint.spec
    differs = entry.risk != spec.risk or (spec.approved and not entry.approved)
    return verdict.holds is True and differs and fresh(blueprint)


def before(status: BlueprintStatus | None) -> str | None:
    """The reason of the condition ``Registered`` as the status has it."""
    told = status.conditions if status is not None else []
    return next((each.reason for each in told if each.type == "Registered"), None)


def fresh(blueprint: Blueprint) -> bool:
    """The spec is another than the status is about."""
    return blueprint.status is None or blueprint.status.observed_generation != blueprint.metadata.generation


def registered(blueprint: Blueprint, digest: str, seen: BlueprintSeen) -> Verdict:
    """What the condition ``Registered`` says."""
    if seen.refusal is not None:
        return Verdict(None, seen.refusal.reason, f"{seen.refusal.what}: {seen.refusal.message}")
    if seen.entry is None:
        return Verdict(None, Reason.REGISTERING)
    if seen.entry.digest == digest:
        return Verdict(True, Reason.REGISTERED)
    if before(blueprint.status) in (Reason.REGISTERED, Reason.NAME_MOVED) and not fresh(blueprint):
        return Verdict(False, Reason.NAME_MOVED, seen.entry.digest)
    return Verdict(None, Reason.REGISTERING)


def children(blueprint: Blueprint, there: tuple[ChildSeen, ...]) -> tuple[Action, ...]:
    """Make a KernelArtifact for each target that has none, and delete those of targets that are no more."""
    uid = blueprint.metadata.uid or ""
    own = {child.name: child for child in there if child.owner == uid}
    wanted = {child_name(blueprint, target): target for target in blueprint.spec.targets}
    made = [Create(child(blueprint, name, target)) for name, target in wanted.items() if name not in own]
    gone = [Delete("KernelArtifact", name, seen.uid) for name, seen in own.items() if name not in wanted]
    return (*made, *gone)


def child_name(blueprint: Blueprint, target: BlueprintTarget) -> str:
    """A name that follows from the target, so that it is never made twice."""
    whole = {"blueprint": blueprint.metadata.name, "target": target.model_dump(mode="json", exclude_none=True)}
    mark = canonical.digest(whole)[:8]
    return f"{blueprint.metadata.name[: LONGEST_NAME - 9].rstrip('-')}-{mark}"


def child(blueprint: Blueprint, name: str, target: BlueprintTarget) -> Object:
    """The KernelArtifact of one target."""
    uid = blueprint.metadata.uid or ""
    owner = {
        "apiVersion": API_VERSION, "kind": "Blueprint", "name": blueprint.metadata.name, "uid": uid,
        "controller": True, "blockOwnerDeletion": False,
    }  # fmt: skip
    return {
        "apiVersion": API_VERSION,
        "kind": "KernelArtifact",
        "metadata": {
            "name": name,
            "namespace": blueprint.metadata.namespace,
            "labels": blueprint_labels(blueprint.metadata.name),
            "ownerReferences": [owner],
        },
        "spec": {"blueprint": blueprint.metadata.name}
        | target.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def revised_status(
    blueprint: Blueprint, digest: str, seen: BlueprintSeen, verdict: Verdict, now: datetime, *, behind: bool
) -> Object | None:
    """The status as the API server should have it; None where it has it already."""
    old = blueprint.status or BlueprintStatus()
    generation = blueprint.metadata.generation
    own = [each for each in seen.children if each.owner == blueprint.metadata.uid]
    new = old.model_copy(
        update={
            # The spec counts as seen only when the library has taken it.
            "observed_generation": old.observed_generation if behind else generation,
            "conditions": revised(old.conditions, {"Registered": verdict}, generation, rfc3339(now)),
            "message": verdict.message[:1024],
            "digest": digest,
            "risk": blueprint.spec.risk,
            "tier": next((tier for end, tier in TIERS if blueprint.spec.risk < end), Tier.QUARANTINED),
            "kernels": sum(each.phase == KernelPhase.VALIDATED for each in own),
        }
    )
    return None if new == blueprint.status else plain(new)
