"""What the cluster said about one run, and the few questions every view asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from esper_operator.keys import TRAINER

Raw = Mapping[str, Any]

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Found:
    """A run, what belongs to it, and when that was asked: resources as the API server shows them."""

    run: Raw
    jobs: tuple[Raw, ...] = ()
    pods: tuple[Raw, ...] = ()
    events: tuple[Raw, ...] = ()
    kernels: tuple[Raw, ...] = ()

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.run["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The run's namespace."""
        return str(self.run["metadata"]["namespace"])

    @property
    def spec(self) -> Raw:
        """What is wanted."""
        return self.run.get("spec") or {}

    @property
    def status(self) -> Raw:
        """What the operator says; empty before it has looked."""
        return self.run.get("status") or {}

    @property
    def phase(self) -> str:
        """One word for where the run is; ``Unseen`` while no operator has looked at it."""
        return str(self.status.get("phase") or "Unseen")

    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ENDED

    def rank(self, number: int) -> Raw | None:
        """The newest pod of a rank."""
        of = [pod for pod in self.pods if rank_of(pod) == number]
        return max(of, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), default=None)


def rank_of(pod: Raw) -> int:
    """Which of the run's pods this is; 0 where nothing says so."""
    metadata = pod["metadata"]
    for place in ("labels", "annotations"):
        said = (metadata.get(place) or {}).get(INDEX_LABEL)
        if said is not None:
            return int(said)
    return 0


def moment(text: str | None) -> datetime | None:
    """A time as the API server writes it."""
    return None if not text else datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def seconds_between(start: str | None, end: str | None, now: datetime) -> float | None:
    """From ``start`` to ``end``, or to now where there is no end yet; None where it has not begun."""
    began, ended = moment(start), moment(end)
    return None if began is None else max(0.0, ((ended or now) - began).total_seconds())


def containers(pod: Raw) -> Iterable[Raw]:
    """States of a pod's containers, in the order they run."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def trouble(pod: Raw) -> str:
    """What keeps a pod from running or why it ended, in words; empty when nothing is wrong."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _said(condition.get("reason"), condition.get("message"))
    for container in containers(pod):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing", None):
            return _said(waiting.get("reason"), waiting.get("message"))
        if ended and ended.get("exitCode"):
            where = "" if container["name"] == TRAINER else f"{container['name']}: "
            return f"{where}exit code {ended['exitCode']}{_after(_said(ended.get('reason'), ended.get('message')))}"
    return _said(status.get("reason"), status.get("message"))


def _said(reason: str | None, message: str | None) -> str:
    words = " ".join((message or "").split())
    return f"{reason}: {words}" if reason and words else reason or words


def _after(words: str) -> str:
    return f" ({words})" if words else ""
