"""An API server reduced to what a plan can notice: actions change what is observed, the Job controller is the test."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from esper_operator.plan.actions import Action, Adjust, Apply, Create, Delete, Plan
from esper_operator.plan.observed import JobSeen, Observed, PodSeen, job_seen, object_seen, owner_of
from esper_operator.plan.reading import read_run
from esper_operator.plan.settings import PodSettings
from esper_operator.plan.training_run import plan

SETTINGS = PodSettings(image="registry.example/esper:1", urza_url="http://urza:8460")
START = datetime(2026, 1, 1, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"


def run_object(name: str = "grow", **spec: Any) -> dict[str, Any]:
    """A TrainingRun as the API server would show it."""
    return {
        "apiVersion": "esper.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name, "namespace": "lab", "uid": UID, "generation": 1, "resourceVersion": "1"},
        "spec": {
            "task": {"ref": "esper.tasks.mnist1d:task"},
            "slots": [{"path": "blocks.*"}],
            "training": {"epochs": 3},
            **spec,
        },
    }


@dataclass
class ApiServer:
    """One run and its objects."""

    run: dict[str, Any]
    now: datetime = START
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    pods: list[PodSeen] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._uids = itertools.count(1)

    def observed(self) -> Observed:
        """What the watches would tell."""
        name = self.run["metadata"]["name"]
        job = self.objects.get(("Job", name))
        config = self.objects.get(("ConfigMap", f"{name}-manifest"))
        service = self.objects.get(("Service", name))
        return Observed(
            job_seen(job) if job else None,
            object_seen(config) if config else None,
            object_seen(service) if service else None,
            tuple(self.pods),
        )

    def plan(self, **seen: Any) -> Plan:
        """What would be done now."""
        return plan(read_run(self.run), replace(self.observed(), **seen), SETTINGS, self.now)

    def step(self, **seen: Any) -> Plan:
        """Plan and do it: actions, then status, then Events."""
        made = self.plan(**seen)
        for action in made.actions:
            self.do(action)
        if made.status is not None:
            self.run = {**self.run, "status": copy.deepcopy(made.status)}
            self.notes.extend(note.reason.value for note in made.notes)
        return made

    def settle(self) -> Plan:
        """Plan and do until nothing is left to do; returns the last plan."""
        for _ in range(6):
            made = self.step()
            if not made.actions and made.status is None:
                return made
        raise AssertionError(f"still not settled: {made}")

    def do(self, action: Action) -> None:
        """One action, with its precondition."""
        if isinstance(action, Create):
            self._create(action.object)
            return
        kind = action.object["kind"] if isinstance(action, Apply) else action.kind
        name = action.object["metadata"]["name"] if isinstance(action, Apply) else action.name
        there = self.objects[kind, name]
        assert there["metadata"]["uid"] == action.uid, "an action reached another object than it was meant for"
        if isinstance(action, Delete):
            del self.objects[kind, name]
        elif isinstance(action, Adjust):
            _merge(there, action.patch)
        else:
            self.objects[kind, name] = action.object | {"metadata": action.object["metadata"] | there["metadata"]}

    def job(self, **status: Any) -> JobSeen:
        """Play the Job controller: set fields of the Job's status."""
        there = self.objects["Job", self.run["metadata"]["name"]]
        there["status"] = there.get("status", {}) | status
        return job_seen(there)

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition of the run's status."""
        return next(each for each in self.run["status"]["conditions"] if each["type"] == kind)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def _create(self, wanted: dict[str, Any]) -> None:
        key = wanted["kind"], wanted["metadata"]["name"]
        if key in self.objects:
            assert owner_of(self.objects[key]) == owner_of(wanted), "another owner's object was taken for its own"
            return
        made = copy.deepcopy(wanted)
        made["metadata"] |= {"uid": f"uid-{next(self._uids)}", "resourceVersion": "1"}
        self.objects[key] = made
        self.created.append("/".join(key))


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def pod(index: int = 0, **fields: Any) -> PodSeen:
    """A pod of the run, born a minute before it all begins; running unless told otherwise."""
    base = PodSeen(
        f"grow-{index}-x", UID, "Running", ready=True, leaving=False, scheduled=True, problem="",
        problem_message="", exit_code=None, created_at="2025-12-31T23:59:00Z",
    )  # fmt: skip
    return replace(base, **fields)


def started(**spec: object) -> ApiServer:
    """A run whose only pod is training."""
    server = ApiServer(run_object(**spec))
    server.settle()
    server.job(active=1, ready=1, startTime="2026-01-01T00:00:00Z")
    server.pods = [pod()]
    server.settle()
    return server


def ended(server: ApiServer, kind: str, reason: str = "", message: str = "") -> None:
    """The Job controller says how the Job ended."""
    told = {"type": kind, "status": "True", "reason": reason, "message": message}
    server.job(active=0, ready=0, conditions=[told | {"lastTransitionTime": "2026-01-01T01:00:00Z"}])
    server.pods = []


def new_run(**spec: object) -> ApiServer:
    """A run made this very second."""
    run = run_object(**spec)
    run["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return ApiServer(run)
