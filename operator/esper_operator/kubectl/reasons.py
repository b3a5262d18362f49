"""Why a run is where it is: everything that speaks for itself, in the order in which a person would look."""

from __future__ import annotations

from collections.abc import Iterator

from esper_operator.kubectl.found import Found, Raw, rank_of, trouble
from esper_operator.kubectl.views import PHASES, WAITING, Why, advice

NEWEST_EVENTS = 10


def why(found: Found) -> Why:
    """Conditions that are not as they should be, what pods say, warnings, and the verdicts over seeds."""
    said = found.status
    reason, message = said.get("reason"), str(said.get("message") or "")
    headline = f"{found.phase}{f' ({reason})' if reason else ''}{f': {message}' if message else ''}"
    findings = [*_conditions(found, message), *_job(found), *_pods(found), *_events(found), *_verdicts(said)]
    if word := advice(found):
        findings.append(("next", word))
    return Why(headline, PHASES.get(found.phase, WAITING), tuple(findings))


def _conditions(found: Found, shown: str) -> Iterator[tuple[str, str]]:
    """Those that should hold and do not, or the reverse; what another has said already is not said again."""
    wanted = {"Ready": "True", "Failed": "False"}
    if not found.ended() and found.phase != "Suspended":
        wanted |= {"Scheduled": "True", "Running": "True"}
    said = {shown}
    for each in found.status.get("conditions") or ():
        fine = each["status"] == wanted.get(each["type"], each["status"])
        if not fine and each.get("message") not in said:
            said.add(each.get("message"))
            yield f"condition {each['type']}", f"{each['status']}, {each['reason']}: {each.get('message') or ''}"


def _job(found: Found) -> Iterator[tuple[str, str]]:
    for job in found.jobs:
        for each in (job.get("status") or {}).get("conditions") or ():
            if each["type"] == "Failed" and each["status"] == "True":
                yield f"job/{job['metadata']['name']}", f"{each.get('reason')}: {each.get('message')}"


def _pods(found: Found) -> Iterator[tuple[str, str]]:
    for pod in sorted(found.pods, key=lambda pod: (rank_of(pod), str(pod["metadata"].get("creationTimestamp")))):
        if (pod.get("status") or {}).get("phase") != "Succeeded" and (words := trouble(pod)):
            yield f"pod/{pod['metadata']['name']}", words


def _events(found: Found) -> Iterator[tuple[str, str]]:
    """The newest warnings, each told once with how often it came."""
    times: dict[tuple[str, str], int] = {}
    for event in sorted(found.events, key=_when):
        if event.get("type") != "Warning":
            continue
        about = event.get("regarding") or event.get("involvedObject") or {}
        key = (f"{str(about.get('kind') or '').lower()}/{about.get('name')}",
               f"{event.get('reason')}: {event.get('note') or event.get('message') or ''}")  # fmt: skip
        often = (event.get("series") or {}).get("count") or event.get("deprecatedCount") or event.get("count") or 1
        times[key] = times.pop(key, 0) + int(often)
    for (about, words), often in list(times.items())[-NEWEST_EVENTS:]:
        yield f"event on {about}", f"{words}{f' ({often} times)' if often > 1 else ''}"


def _when(event: Raw) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("lastTimestamp")
        or event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""
    )  # fmt: skip


def _verdicts(said: Raw) -> Iterator[tuple[str, str]]:
    for seed in (said.get("seeds") or {}).get("entries") or ():
        if seed.get("verdict"):
            yield f"seed {seed['id']}", f"{seed['stage']}: {seed['verdict']}"
