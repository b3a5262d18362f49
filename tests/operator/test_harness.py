"""The cluster of the tests itself: killed at any moment, it leaves nothing behind on the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import parts
import real_cluster
from clusters import eventually
from kube_init import BRIDGE, CGROUPS

STARTS_ONE = """
import sys, time
import parts, real_cluster
print(parts.shared("cluster", real_cluster.start)["home"], flush=True)
time.sleep(600)
"""
# A worker of a test run shares its run's cluster; the process of this test is no worker, and starts one of its own.
OF_ITS_OWN = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
pytestmark = pytest.mark.slow


def running(home: str) -> list[int]:
    """Processes that were told of this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if home.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("who", ["owner", "keeper"])
def test_a_cluster_that_is_killed_leaves_nothing(who: str) -> None:
    if reason := real_cluster.missing():
        parts.unavailable(reason)
    owner = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE], stdout=subprocess.PIPE, text=True,
        env=OF_ITS_OWN | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert owner.stdout is not None
        home = owner.stdout.readline().strip()
        assert home, "no cluster was started"
        assert running(home)
        keeper = int((Path(home) / "keeper.pid").read_text().split()[0])
        os.kill(owner.pid if who == "owner" else keeper, signal.SIGKILL)
        eventually(lambda: not running(home), patience=20)
    finally:
        owner.kill()
        owner.wait()
    assert home not in Path("/proc/mounts").read_text()
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    rules = subprocess.run(["iptables-save"], check=True, capture_output=True, text=True).stdout
    assert "KUBE-" not in rules
    parts.remove_stale("cluster")
    real_cluster.sweep_cgroups()
    assert not Path(home).exists()
    eventually(lambda: not list(CGROUPS.glob(f"*/{real_cluster.cgroup_of(Path(home))}")))
