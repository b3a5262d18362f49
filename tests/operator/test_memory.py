"""What an operator takes of a machine while nothing happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusters import Kube, Operator, eventually, free_port

MOST_MEGABYTES = 150


@pytest.mark.slow
def test_an_idle_operator_is_small(kube: Kube, tmp_path: Path) -> None:
    """A program of its own: a forked child would be counted with what the tests have loaded."""
    port = free_port()
    values = {
        "IMAGE": "localhost/esper-test:1", "NAMESPACES": f'["{kube.namespace}"]', "LEASE_NAMESPACE": kube.namespace,
        "PORT": str(port),
    }  # fmt: skip
    variables = {f"ESPER_OPERATOR_{name}": value for name, value in values.items()} | {"KUBECONFIG": kube.kubeconfig}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "esper_operator.main"], env=os.environ | variables, stdout=log, stderr=log
        )
    try:
        replica = Operator(process.pid, port, tmp_path / "log")
        eventually(replica.leads, patience=60)
        kube.run()
        kube.reason("Unschedulable")
        time.sleep(2)
        status = Path(f"/proc/{process.pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert kilobytes / 1024 < MOST_MEGABYTES
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
