"""What is shown of runs, as data: a header, a tree, tables. No I/O and no clock; see ``showing`` for how it looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from esper_operator.keys import RUN
from esper_operator.kubectl.found import Found, Raw, rank_of, seconds_between, trouble
from esper_operator.kubectl.words import duration
from leyline.lifecycle import Stage

GOOD, BAD, BUSY, WAITING, OFF = "good", "bad", "busy", "waiting", "off"
"""How something fares; decides its mark and colour."""
PHASES = {
    "Succeeded": GOOD, "Complete": GOOD, "Validated": GOOD, "Running": BUSY, "Failed": BAD, "Rejected": BAD,
    "Suspended": OFF, "Retired": OFF,
}  # fmt: skip
STAGES = {
    "FOSSILIZED": GOOD, "CULLED": OFF, "CANCELLED": OFF, "ROLLED_BACK": BAD, "ERROR_RECOVERY": BAD, "DORMANT": OFF,
    "GERMINATED": WAITING, "LOADING": WAITING,
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A line of the tree."""

    name: str
    state: str = ""
    fares: str = WAITING
    seconds: float | None = None
    note: str = ""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows under columns; the mapping form is what ``-o json`` shows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    fares: tuple[str, ...] = ()
    empty: str = "nothing to show"

    def plain(self) -> list[dict[str, Any]]:
        """Each row by its columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Status:
    """One run: what matters first, then what it consists of."""

    header: tuple[tuple[str, str], ...]
    fares: str
    tree: Node
    advice: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"run": dict(self.header), "tree": asdict(self.tree), "advice": self.advice}


@dataclass(frozen=True)
class Why:
    """Why a run is where it is: sentences, most telling first, and what to do."""

    headline: str
    fares: str
    findings: tuple[tuple[str, str], ...] = field(default=())

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"headline": self.headline, "findings": [{"from": who, "said": said} for who, said in self.findings]}


def run_status(found: Found, now: datetime) -> Status:
    """One run with everything that belongs to it."""
    said, spec, meta = found.status, found.spec, found.run["metadata"]
    best, budget, checkpoint = (said.get(name) or {} for name in ("best", "budget", "checkpoint"))
    took = seconds_between(said.get("startedAt"), said.get("finishedAt"), now)
    epochs = said.get("epochs") or (spec.get("training") or {}).get("epochs")
    header = [
        ("Name", found.name),
        ("Namespace", found.namespace),
        ("Phase", found.phase),
        ("Reason", str(said.get("reason") or "")),
        ("Created", str(meta.get("creationTimestamp") or "")),
        ("Started", str(said.get("startedAt") or "")),
        ("Finished", str(said.get("finishedAt") or "")),
        ("Duration", duration(took)),
        ("ETA", "" if found.ended() else str(said.get("eta") or "")),
        ("Epoch", f"{said.get('epoch') if said.get('epoch') is not None else '–'} of {epochs}" if epochs else ""),
        ("Best", f"{best.get('text') or best['value']} (epoch {best['epoch']})" if best else ""),
        ("Parameters", f"{budget['parameters']:,}" if budget.get("parameters") is not None else ""),
        ("Budget left", _percent(budget.get("remainingFraction"))),
        ("Checkpoint", f"epoch {checkpoint['epoch']}" if checkpoint else ""),
        ("Restarts", str(said["restarts"]) if said.get("restarts") else ""),
        ("GPUs", str(said["gpus"]) if said.get("gpus") else ""),
    ]
    children = [each for each in (_seeds(said), _kernels(found, now)) if each is not None]
    tree = Node(
        found.name, found.phase, PHASES.get(found.phase, WAITING), took, str(said.get("message") or ""),
        (*children, *(_job(job, found.pods, now) for job in found.jobs)),
    )  # fmt: skip
    failed = f"`kubectl esper why {found.name} -n {found.namespace}` says more." if found.phase == "Failed" else ""
    shown = tuple((name, value) for name, value in header if value)
    return Status(shown, tree.fares, tree, advice(found) or failed)


def advice(found: Found) -> str:
    """What to do next, where the status does not say it itself."""
    if found.phase == "Unseen":
        return "No operator has looked at it: is one running, and is this one of its namespaces?"
    generation, seen = found.run["metadata"].get("generation"), found.status.get("observedGeneration")
    if generation is not None and seen is not None and seen < generation:
        return "The spec was changed and the operator has not looked at that yet."
    return ""


def _seeds(said: Raw) -> Node | None:
    summary = said.get("seeds") or {}
    by_stage: Mapping[str, int] = summary.get("byStage") or {}
    if not by_stage:
        return None
    entries = summary.get("entries") or ()
    nodes = []
    for stage in sorted(by_stage, key=_place):
        number = by_stage[stage]
        if number:
            of = tuple(_seed(each) for each in entries if each["stage"] == stage)
            nodes.append(Node(stage.lower(), str(number), STAGES.get(stage, BUSY), children=of))
    return Node("seeds", str(summary.get("text") or ""), BUSY if any(n.fares == BUSY for n in nodes) else GOOD,
                children=tuple(nodes))  # fmt: skip


def _place(stage: str) -> int:
    """Where a stage comes in a seed's life; what this does not know comes last."""
    return Stage[stage].value if stage in Stage.__members__ else len(Stage)


def _seed(entry: Raw) -> Node:
    alpha = entry.get("alpha")
    parts = [str(entry.get("blueprint") or ""), f"alpha {alpha:.2f}" if alpha else "", str(entry.get("verdict") or "")]
    return Node(entry["id"], "", STAGES.get(entry["stage"], BUSY), note=", ".join(part for part in parts if part))


def _kernels(found: Found, now: datetime) -> Node | None:
    summary = found.status.get("kernels") or {}
    counts = {name: summary.get(name) or 0 for name in ("ready", "pending", "rejected")}
    if not any(counts.values()) and not found.kernels:
        return None
    nodes = tuple(_kernel(each, now) for each in found.kernels)
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return Node("kernels", said, BUSY if counts["pending"] else GOOD, children=nodes)


def _kernel(artifact: Raw, now: datetime) -> Node:
    said = artifact.get("status") or {}
    phase = str(said.get("phase") or "Unseen")
    note = ", ".join(str(part) for part in (artifact["spec"]["blueprint"], said.get("ratioText"), said.get("message"))
                     if part)  # fmt: skip
    age = seconds_between(artifact["metadata"].get("creationTimestamp"), None, now)
    return Node(artifact["metadata"]["name"], phase, PHASES.get(phase, WAITING), age, note)


def _job(job: Raw, pods: Sequence[Raw], now: datetime) -> Node:
    status = job.get("status") or {}
    ended = next(
        (each for each in status.get("conditions") or ()
         if each["type"] in ("Complete", "Failed") and each["status"] == "True"), None,
    )  # fmt: skip
    state = ended["type"] if ended else "Suspended" if job["spec"].get("suspend") else "Running"
    finish = (status.get("completionTime") or ended.get("lastTransitionTime")) if ended else None
    note = f"{ended.get('reason')}: {ended.get('message')}" if ended and state == "Failed" else ""
    mine = [pod for pod in pods if _owned(pod, job)]
    mine.sort(key=lambda pod: (rank_of(pod), str(pod["metadata"].get("creationTimestamp"))))
    nodes = tuple(_pod(pod, now) for pod in mine)
    return Node(
        f"job/{job['metadata']['name']}", state, PHASES.get(state, WAITING),
        seconds_between(status.get("startTime"), finish, now), note, nodes,
    )  # fmt: skip


def _owned(pod: Raw, job: Raw) -> bool:
    return any(each.get("uid") == job["metadata"]["uid"] for each in pod["metadata"].get("ownerReferences") or ())


def _pod(pod: Raw, now: datetime) -> Node:
    status, meta = pod.get("status") or {}, pod["metadata"]
    phase = "Terminating" if meta.get("deletionTimestamp") else str(status.get("phase") or "Pending")
    ends = [(each.get("state") or {}).get("terminated") or {} for each in status.get("containerStatuses") or ()]
    finish = max((str(end.get("finishedAt") or "") for end in ends), default="")
    why = trouble(pod)
    node = (pod.get("spec") or {}).get("nodeName")
    note = why or (f"on {node}" if node else "")
    fares = BAD if why and phase == "Pending" else PHASES.get(phase, WAITING)
    return Node(meta["name"], phase, fares, seconds_between(status.get("startTime"), finish, now), note)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}"


def runs_table(runs: Iterable[Raw], now: datetime, *, namespaces: bool) -> Table:
    """All runs, newest last; with a column for the namespace where they are of several."""
    found = sorted((Found(run) for run in runs), key=lambda each: (
        each.namespace, str(each.run["metadata"].get("creationTimestamp")), each.name))  # fmt: skip
    columns = ("run", "phase", "progress", "epoch", "seeds", "best", "duration", "reason")
    rows = []
    for each in found:
        said = each.status
        took = seconds_between(said.get("startedAt"), said.get("finishedAt"), now)
        row = (
            each.name, each.phase, said.get("progress"), said.get("epoch"), (said.get("seeds") or {}).get("text"),
            (said.get("best") or {}).get("text"), duration(took), said.get("reason"),
        )  # fmt: skip
        rows.append((each.namespace, *row) if namespaces else row)
    return Table(
        ("namespace", *columns) if namespaces else columns, tuple(rows),
        tuple(PHASES.get(each.phase, WAITING) for each in found), "no training runs",
    )  # fmt: skip


def seeds_table(found: Found) -> Table:
    """The seeds that the status has a line for; counts of all are in ``run_status``."""
    entries = (found.status.get("seeds") or {}).get("entries") or ()
    return Table(
        ("seed", "stage", "blueprint", "alpha", "verdict"),
        tuple((e["id"], e["stage"], e.get("blueprint"), e.get("alpha"), e.get("verdict")) for e in entries),
        tuple(STAGES.get(e["stage"], BUSY) for e in entries),
        "the status names no seeds",
    )


def kernels_table(artifacts: Iterable[Raw], now: datetime, *, namespaces: bool) -> Table:
    """Kernel artifacts by blueprint."""
    found = sorted(artifacts, key=lambda each: (
        each["metadata"]["namespace"], each["spec"]["blueprint"], each["metadata"]["name"]))  # fmt: skip
    columns = ("kernel", "blueprint", "phase", "strategy", "hardware", "ratio", "tags", "age", "message")
    rows, fares = [], []
    for each in found:
        said, spec, meta = each.get("status") or {}, each["spec"], each["metadata"]
        phase = str(said.get("phase") or "Unseen")
        row = (
            meta["name"], spec["blueprint"], phase, spec.get("strategy"), said.get("hardware"), said.get("ratioText"),
            said.get("tagsText"), duration(seconds_between(meta.get("creationTimestamp"), None, now)),
            said.get("message"),
        )  # fmt: skip
        rows.append((meta["namespace"], *row) if namespaces else row)
        fares.append(PHASES.get(phase, WAITING))
    named = ("namespace", *columns) if namespaces else columns
    return Table(named, tuple(rows), tuple(fares), "no kernel artifacts")


def of_run(artifacts: Iterable[Raw], name: str) -> tuple[Raw, ...]:
    """Kernel artifacts that carry the run's label."""
    return tuple(each for each in artifacts if (each["metadata"].get("labels") or {}).get(RUN) == name)
