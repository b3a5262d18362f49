"""Nodes with GPUs that are only played, by kwok: it says of pods that they run, and a moment later that they are done.

What a node and a pod go through is told by the stage files that kwok's own module brings along.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import parts
from kube_programs import KWOK, program

GPUS, PODS = 64, 2000
_STAGES = (
    "node/fast/node-initialize", "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready", "pod/fast/pod-complete", "pod/fast/pod-delete",
)  # fmt: skip


def start(home: Path, kubeconfig: str) -> None:
    """Play every node of the cluster, from ``home``; raises ``PartMissing``."""
    stages = home / "stages.yaml"
    folder = _module() / "kustomize" / "stage"
    stages.write_text("\n---\n".join((folder / f"{name}.yaml").read_text() for name in _STAGES))
    parts.launch(
        [
            str(program("kwok")), f"--kubeconfig={kubeconfig}", f"--config={stages}", "--manage-all-nodes",
            "--node-lease-duration-seconds=40", "--cidr=10.1.0.0/16", "--node-ip=10.0.0.1", "--v=ERROR",
        ],
        home,
    )  # fmt: skip


def node(name: str) -> dict[str, Any]:
    """A node to be played."""
    has = {"cpu": "2048", "memory": "8Ti", "pods": str(PODS), "nvidia.com/gpu": str(GPUS)}
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": has, "allocatable": has},
    }  # fmt: skip


def _module() -> Path:
    name = KWOK.package.partition("/cmd/")[0]
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{name}@{KWOK.fixed}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise parts.PartMissing(f"the stages of kwok can't be had: {done.stderr[-1000:] or done.stdout[-1000:]}")
    return Path(json.loads(done.stdout)["Dir"])
