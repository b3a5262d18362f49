"""What the watches know of the cluster."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper_operator.plan.blueprint import ChildSeen
from esper_operator.plan.observed import Observed
from esper_operator.plan.pod import snapshot_name

Name = tuple[str, str]
"""Namespace and name."""
Key = tuple[str, str, str]
"""Kind, namespace and name of a resource to look at."""
Index = Mapping[Any, Any]
"""kopf's: under each key a collection of what was found for it."""
_NOT_KEPT = ("managedFields", "ownerReferences")


@dataclass(frozen=True, slots=True)
class ResourceSeen:
    """A resource of our own as few bytes: ten thousand parsed specs would fill the pod's memory."""

    version: str
    packed: bytes
    """Its JSON, by zlib."""

    def body(self) -> dict[str, Any]:
        """The resource, without what nobody here asks about."""
        read: dict[str, Any] = json.loads(zlib.decompress(self.packed))
        return read


def resource_seen(body: Mapping[str, Any]) -> ResourceSeen:
    """What is kept of a resource of our own."""
    meta = {name: value for name, value in body["metadata"].items() if name not in _NOT_KEPT}
    kept = {name: value for name, value in body.items() if name in ("apiVersion", "kind", "spec", "status")}
    text = json.dumps(kept | {"metadata": meta}, separators=(",", ":"), default=dict).encode()
    return ResourceSeen(meta["resourceVersion"], zlib.compress(text, 1))


@dataclass
class Indices:
    """What there is, by namespace and name; pods by the uid of their run, children by their blueprint."""

    runs: Index = field(default_factory=dict)
    blueprints: Index = field(default_factory=dict)
    artifacts: Index = field(default_factory=dict)
    children: Index = field(default_factory=dict)
    jobs: Index = field(default_factory=dict)
    snapshots: Index = field(default_factory=dict)
    services: Index = field(default_factory=dict)
    pods: Index = field(default_factory=dict)

    def observed(self, key: Name, uid: str) -> Observed:
        """Everything there is of one run."""
        namespace, name = key
        return Observed(
            one(self.jobs, key),
            one(self.snapshots, (namespace, snapshot_name(name))),
            one(self.services, key),
            tuple(sorted(self.pods.get(uid, ()), key=lambda pod: str(pod.name))),
        )

    def children_of(self, key: Name) -> tuple[ChildSeen, ...]:
        """The kernel artifacts that bear a blueprint's label."""
        return tuple(sorted(self.children.get(key, ()), key=lambda child: str(child.name)))

    def called(self, run: str) -> list[Key]:
        """Runs of this name, in whatever namespace."""
        return [("TrainingRun", *key) for key in self.runs if key[1] == run]

    def only_one_called(self, run: str) -> bool:
        """Whether a name alone says which run is meant: on the bus runs have no namespace."""
        return len(self.called(run)) == 1

    def versions(self, kind: str) -> dict[Name, str]:
        """The newest version told of each TrainingRun or Job."""
        index = self.runs if kind == "TrainingRun" else self.jobs
        return {key: one(index, key).version for key in list(index)}


def one(index: Index, key: Any) -> Any:
    """The only entry under a key; None where there is none."""
    return next(iter(index.get(key, ())), None)
