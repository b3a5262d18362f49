"""Many blueprints at once for an installation in a cluster: what is asked for, and what is seen meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from clusters import GROUP, VERSION, eventually
from esper.kernel.hardware import hardware_target
from installed import Installed

POOLS = ("tezzeret", "urabrask")
FINAL = ("Validated", "Rejected")
SIZES, FUNCTIONS = (1, 3, 5, 7), ("tanh", "relu", "gelu", "silu", "sigmoid")
WIDTHS = (8, 16)
DELIVERY = re.compile(r"([0-9a-z_-]+): to be (?:built|measured) \(delivery (\d+)\)")
_HEAD = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Blueprint"}
# What a run of `esper.tasks.vector` can take; where the work is no convolution, a compiled pair is the faster one.
_GATED: dict[str, Any] = {
    "u": {"op": "input"},
    "norm": {"op": "rms_norm", "inputs": ["u"]},
    "up": {"op": "linear", "inputs": ["norm"], "params": {"out": "4w", "bias": False}},
    "gate": {"op": "glu", "inputs": ["up"], "params": {"fn": "silu"}},
    "down": {"op": "linear", "inputs": ["gate"], "params": {"out": "w", "bias": False, "init": "zeros"}},
}


def sound(count: int) -> list[dict[str, Any]]:
    """Blueprints ``burst-<n>``, no two of one design: equal ones would be one artifact in the library."""
    ways = itertools.product(FUNCTIONS, SIZES, SIZES, (0, *SIZES))
    found = [
        convolutions(f"burst-{number}", [size for size in sizes if size], function)
        for number, (function, *sizes) in enumerate(itertools.islice(ways, count))
    ]
    assert len(found) == count, f"there are no {count} different ones"
    return found


def overflowing(name: str) -> dict[str, Any]:
    """A design that is right in double precision and has no finite value where numbers have 32 bits."""
    nodes: dict[str, Any] = {}
    last = "u"
    for number in range(7):
        factor, both = f"big{number}", f"square{number}"
        nodes[factor] = {"op": "scale", "inputs": [last], "params": {"log2": 4}}
        nodes[both] = {"op": "mul", "inputs": [factor, factor]}
        last = both
    made = convolutions(name, [3], "tanh")
    graph = made["spec"]["graph"]
    graph["nodes"]["conv0"]["inputs"] = [last]
    graph["nodes"] |= nodes
    return made


def convolutions(name: str, kernels: list[int], function: str) -> dict[str, Any]:
    """Convolutions of these kernel sizes, each followed by this function, for two slots."""
    nodes: dict[str, Any] = {"u": {"op": "input"}}
    last = "u"
    for number, kernel in enumerate(kernels):
        params = {"out": "w", "kernel": kernel} | ({"init": "zeros"} if number == len(kernels) - 1 else {})
        nodes[f"conv{number}"] = {"op": "conv1d", "inputs": [last], "params": params}
        nodes[f"act{number}"] = {"op": "act", "inputs": [f"conv{number}"], "params": {"fn": function}}
        last = f"act{number}"
    targets = [{"interface": {"layout": "image1d", "width": each, "trailing": [9]}, "strategy": "Fast"}
               for each in WIDTHS]  # fmt: skip
    return _blueprint(name, f"convolutions {kernels}, {function}", "image1d", nodes, last, targets)


def compiled(name: str) -> dict[str, Any]:
    """A gated MLP for the slots of ``esper.tasks.vector``, compiled ahead of time."""
    targets = [{"interface": {"layout": "vector", "width": 8, "trailing": []}, "strategy": "Standard"}]
    return _blueprint(name, "norm, SwiGLU with 2w units", "vector", _GATED, "down", targets)


def _blueprint(
    name: str, summary: str, layout: str, nodes: dict[str, Any], output: str, targets: list[dict[str, Any]]
) -> dict[str, Any]:
    graph = {"schema": 1, "layouts": [layout], "nodes": nodes, "output": output}
    spec = {"summary": summary, "risk": 0.2, "graph": graph, "targets": targets}
    return _HEAD | {"metadata": {"name": name}, "spec": spec}


def artifacts(esper: Installed, blueprint: str = "") -> dict[str, dict[str, Any]]:
    """Status of every KernelArtifact, or of one blueprint's."""
    selector = f"esper.dev/blueprint={blueprint}" if blueprint else ""
    found = esper.custom.list_namespaced_custom_object(
        GROUP, VERSION, esper.namespace, "kernelartifacts", label_selector=selector
    )["items"]
    return {each["metadata"]["name"]: each.get("status") or {} for each in found}


def idle(esper: Installed) -> None:
    """Wait until no pod of a pool is left."""

    def gone() -> bool:
        running = [each.metadata.name for part in POOLS for each in esper.of(part)
                   if each.status.phase in ("Pending", "Running")]  # fmt: skip
        assert not running
        return True

    eventually(gone, 180, 1.0)


class Burst:
    """What is seen of blueprints from when they are given to when the last of their artifacts is decided."""

    def __init__(self, esper: Installed, blueprints: list[dict[str, Any]]) -> None:
        self._esper = esper
        self._logs: dict[str, str] = {}
        self.pods = dict.fromkeys(POOLS, 0)
        """Most pods of each pool that ran at once."""
        self.decided_after: list[float] = []
        """Seconds, in order, after which the artifacts had their verdict in the cluster."""
        self._began = time.monotonic()
        self.names = [each["metadata"]["name"] for each in blueprints]
        self._wanted = sum(len(each["spec"]["targets"]) for each in blueprints)
        for each in blueprints:
            esper.create("blueprints", each)

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Status of each artifact of the burst."""
        found = artifacts(self._esper).items()
        return {name: status for name, status in found if name.rpartition("-")[0] in self.names}

    def phases(self) -> dict[str, str]:
        """Phase of each."""
        return {name: str(status.get("phase")) for name, status in self.statuses().items()}

    def follow(self, patience: float) -> dict[str, str]:
        """Wait until every artifact has its verdict; returns the verdicts."""
        eventually(self._look, patience, 1.0)
        self._read()
        return self.phases()

    def redelivered(self) -> dict[str, int]:
        """Artifacts whose work was handed out more than once, by what the pools wrote, and how often."""
        found = {status["artifactId"]: 1 for status in self.statuses().values()}
        for text in self._logs.values():
            for identity, delivery in DELIVERY.findall(text):
                if identity in found:
                    found[identity] = max(found[identity], int(delivery))
        return {identity: times for identity, times in found.items() if times > 1}

    def write(self, path: Path) -> None:
        """Leave the figures in a file."""
        phases = list(self.phases().values())
        found = {
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
            "cores": os.cpu_count(),
            "hardware": hardware_target(),
            "artifacts": self._wanted,
            "verdicts": {phase: phases.count(phase) for phase in sorted(set(phases))},
            "seconds": round(self.decided_after[-1], 1),
            "seconds_until_half": round(self.decided_after[len(self.decided_after) // 2], 1),
            "most_pods": self.pods,
            "redelivered": len(self.redelivered()),
            "most_deliveries": max(self.redelivered().values(), default=1),
        }
        path.write_text(json.dumps(found, indent=2) + "\n")

    def _look(self) -> bool:
        for part in POOLS:
            running = [pod for pod in self._esper.of(part) if pod.status.phase == "Running"]
            self.pods[part] = max(self.pods[part], len(running))
        if time.monotonic() - self._read_at > 60:
            self._read()
        phases = list(self.phases().values())
        done = sum(phase in FINAL for phase in phases)
        now = time.monotonic() - self._began
        self.decided_after += [now] * (done - len(self.decided_after))
        assert done == self._wanted, f"{done} of {self._wanted}: {sorted(set(phases))}"
        return True

    _read_at = 0.0

    def _read(self) -> None:
        """Keep what the pools' pods have written so far: they are taken away some time after they have ended."""
        self._read_at = time.monotonic()
        for part in POOLS:
            for pod in self._esper.of(part):
                name = pod.metadata.name
                try:
                    self._logs[name] = self._esper.logs(name)
                except ApiException as error:
                    if error.status not in (400, 404):  # not begun yet, or gone meanwhile
                        raise
