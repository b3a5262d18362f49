"""Conditions of a status: changed in place, so that ``lastTransitionTime`` moves only when the status does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from esper_operator.plan.actions import Note
from esper_operator.reasons import TABLE, Reason
from leyline.resources.enums import ConditionStatus
from leyline.resources.meta import ConditionEntry

LONGEST_MESSAGE = 1000
LONGEST_CONDITION = 4000


@dataclass(frozen=True)
class Verdict:
    """What is said of one condition; ``holds`` None where it can't be told."""

    holds: bool | None
    reason: Reason
    detail: str = ""

    @property
    def message(self) -> str:
        """What happened and what to do next, in a sentence or two."""
        return say(self.reason, self.detail)


def say(reason: Reason, detail: str = "") -> str:
    """The reason's meaning, its particulars, and the advice of the table."""
    entry = TABLE[reason]
    particulars = " ".join(detail.split())[:LONGEST_MESSAGE]
    said = f"{entry.meaning}: {particulars}" if particulars else entry.meaning
    said = said[0].upper() + said[1:]
    advice = f"; {entry.advice}" if entry.advice else ""
    return f"{said.rstrip('.')}{advice}."


def news(before: str | None, reason: Reason, message: str) -> tuple[Note, ...]:
    """An Event when the reason is another than before, if the table tells that reason at all."""
    return () if before == reason.value or not TABLE[reason].event else (Note(reason, message),)


def revised(
    old: Iterable[ConditionEntry], verdicts: dict[str, Verdict], generation: int | None, now: str
) -> list[ConditionEntry]:
    """The conditions that ``verdicts`` make, by type, of those there were; types nobody judged are dropped."""
    before = {each.type: each for each in old}
    made = []
    for kind, verdict in sorted(verdicts.items()):
        status = _STATUS[verdict.holds]
        known = before.get(kind)
        since = known.last_transition_time if known is not None and known.status is status else now
        made.append(
            ConditionEntry(
                type=kind,
                status=status,
                reason=verdict.reason.value,
                message=verdict.message[:LONGEST_CONDITION],
                last_transition_time=since,
                observed_generation=generation,
            )
        )
    return made


_STATUS = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}
