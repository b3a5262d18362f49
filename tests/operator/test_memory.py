"""What an operator takes of a machine while nothing happens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clusters import Kube, eventually, program

MOST_MEGABYTES = 150


@pytest.mark.slow
def test_an_idle_operator_is_small(kube: Kube, tmp_path: Path) -> None:
    with program(kube.kubeconfig, kube.namespace, tmp_path / "log") as operator:
        eventually(operator.leads, patience=60)
        kube.run()
        kube.reason("Unschedulable")
        time.sleep(2)
        status = Path(f"/proc/{operator.pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert kilobytes / 1024 < MOST_MEGABYTES
