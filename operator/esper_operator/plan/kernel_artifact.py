"""The reconcile of a kernel artifact: entered in the library, then told what the pools make of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from esper_operator.plan.actions import Begin, Object, Plan
from esper_operator.plan.conditions import Verdict, news, revised
from esper_operator.plan.observed import Refusal
from esper_operator.plan.status import plain
from esper_operator.plan.times import rfc3339
from esper_operator.reasons import Reason
from leyline.identity import ArtifactId
from leyline.resources import KernelArtifact, KernelArtifactStatus
from leyline.resources.enums import KernelPhase

UNFINISHED_SECONDS, FINISHED_SECONDS = 10.0, 600.0
"""How often the library is asked about an artifact that is on its way, and about one that has its verdict."""


@dataclass(frozen=True)
class Known:
    """What the library knows of an artifact; ``digest`` is its manifest's, empty before it was measured."""

    state: KernelPhase
    hardware: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    tags: tuple[str, ...]
    risk: float
    cause: str
    digest: str = ""


@dataclass(frozen=True)
class Pools:
    """What the pools build for and with, as they say it themselves; empty where the operator was not told."""

    hardware: str = ""
    toolchain: str = ""


@dataclass(frozen=True)
class Wanted:
    """An artifact by its id, and all that the id follows from."""

    id: str
    hardware: str
    strategy: str
    toolchain: str


def wanted(artifact: KernelArtifact, digest: str, pools: Pools) -> Wanted | None:
    """Which artifact it is, given the digest of its blueprint; None when the pools are not known well enough."""
    hardware = artifact.spec.hardware or pools.hardware
    if not hardware or not pools.toolchain:
        return None
    strategy = artifact.spec.strategy.value.lower()
    made = ArtifactId.make(digest, artifact.spec.interface.to_interface(), hardware, strategy, pools.toolchain)
    return Wanted(str(made), hardware, strategy, pools.toolchain)


def plan(
    artifact: KernelArtifact,
    want: Wanted | Reason,
    known: Known | None,
    refusal: Refusal | None,
    now: datetime,
    served: bool = True,
) -> Plan:
    """What to do about an artifact; ``want`` is a reason where it can't be said which one it is.

    ``served``: whether some pool takes artifacts of this state and hardware.
    """
    if refusal is not None:
        verdict = Verdict(None, refusal.reason, f"{refusal.what}: {refusal.message}")
    elif isinstance(want, Reason):
        verdict = Verdict(None, want, artifact.spec.blueprint if want is Reason.BLUEPRINT_UNKNOWN else "")
    else:
        verdict = judged(known, served)
    status = revised_status(artifact, None if isinstance(want, Reason) else want, known, verdict, now)
    before = next((each.reason for each in artifact.status.conditions), None) if artifact.status is not None else None
    told = news(before, verdict.reason, verdict.message)
    if refusal is not None or isinstance(want, Reason):
        return Plan((), status, told, after=UNFINISHED_SECONDS)
    if known is None:
        spec = artifact.spec
        entry = Begin(
            want.id, spec.blueprint, spec.interface.to_interface(), want.strategy, want.hardware, want.toolchain
        )
        return Plan((entry,), status, told, after=UNFINISHED_SECONDS)
    return Plan((), status, told, after=UNFINISHED_SECONDS if verdict.holds is None else FINISHED_SECONDS)


def judged(known: Known | None, served: bool = True) -> Verdict:
    """What the library's state means for the condition ``Validated``."""
    if known is None:
        return Verdict(None, Reason.IN_PIPELINE)
    if not served:
        return Verdict(None, Reason.NO_POOL, f"{known.hardware}: {known.state.value}")
    match known.state:
        case KernelPhase.VALIDATED:
            return Verdict(True, Reason.VALIDATED)
        case KernelPhase.REJECTED:
            return Verdict(False, Reason.REJECTED, known.cause)
        case KernelPhase.RETIRED:
            return Verdict(False, Reason.RETIRED, known.cause)
        case KernelPhase.NOISY:
            return Verdict(None, Reason.RESTLESS, known.cause)
    return Verdict(None, Reason.IN_PIPELINE, known.state.value)


def revised_status(
    artifact: KernelArtifact, want: Wanted | None, known: Known | None, verdict: Verdict, now: datetime
) -> Object | None:
    """The status as the API server should have it; None where it has it already."""
    old = artifact.status or KernelArtifactStatus()
    generation = artifact.metadata.generation
    update: dict[str, Any] = {
        "observed_generation": generation,
        "conditions": revised(old.conditions, {"Validated": verdict}, generation, rfc3339(now)),
        "message": verdict.message[:1024],
        "phase": known.state if known else old.phase or (KernelPhase.PENDING_BUILD if want else None),
    }
    if want is not None:
        update |= {"artifact_id": want.id, "hardware": want.hardware}
    if known is not None:
        update |= {
            "digest": known.digest or None,
            "ratio": known.ratio,
            "ratio_text": ratio_text(known),
            "tags": list(known.tags)[:16],
            "tags_text": ",".join(known.tags)[:256] or None,
            "risk": known.risk,
        }
    new = old.model_copy(update=update)
    return None if new == artifact.status else plain(new)


def ratio_text(known: Known) -> str | None:
    """The ratio and, where it was measured, its interval."""
    if known.ratio is None:
        return None
    if known.ratio_low is None or known.ratio_high is None:
        return f"{known.ratio:.2f}"
    return f"{known.ratio:.2f} ({known.ratio_low:.2f}–{known.ratio_high:.2f})"
