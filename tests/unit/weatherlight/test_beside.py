"""The kernel pipeline as a process of its own: it makes what it is asked for, comes back when killed, and never
outlives its trainer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from artifacts import VECTOR
from esper.urza import SqlLibrary, State
from esper.weatherlight.backoff import Backoff
from esper.weatherlight.beside import KernelProcess
from esper.weatherlight.supervisor import Health
from leyline.resources import KernelsSpec

PATIENCE = 120.0
QUICKLY = Backoff(first=0.01, longest=0.02, tries=2, healthy=60.0)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {PATIENCE:g} s"
        time.sleep(0.05)


def health(process: KernelProcess) -> Health:
    return process.status()[0].health


def states(root: Path) -> list[State]:
    with closing(SqlLibrary.open(root)) as library:
        return [record.state for record in library.records()]


def started(process: KernelProcess) -> psutil.Process:
    until(lambda: process.pid is not None, "the process")
    assert process.pid is not None
    return psutil.Process(process.pid)


def test_kernels_are_certified_in_the_library_and_the_process_ends_by_itself(tmp_path: Path) -> None:
    told: list[str] = []
    with KernelProcess(tmp_path, KernelsSpec(), told.append, nice=3) as beside:
        assert beside.status() == []
        beside.request([VECTOR], ["bottleneck", "low_rank"], ["fast"])
        child = started(beside)
        assert os.getsid(child.pid) == child.pid, "apart from the terminal's signals"
        until(lambda: child.nice() == 3, "its nice value")
        mine = psutil.Process().cpu_affinity()
        if len(mine) > 1:
            until(lambda: child.cpu_affinity() == sorted(mine)[1:], "leaving a core to the training")
        until(lambda: health(beside) is not Health.RUNNING, "the end of the process")
    assert health(beside) is Health.FINISHED
    assert states(tmp_path) == [State.VALIDATED, State.VALIDATED]
    assert told == []
    assert not child.is_running()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system has no class of work that only idle cores do")
def test_unless_told_otherwise_it_works_only_on_idle_cores(tmp_path: Path) -> None:
    with KernelProcess(tmp_path, KernelsSpec(), print) as beside:
        beside.request([VECTOR], ["bottleneck"], ["fast"])
        child = started(beside)
        until(lambda: os.sched_getscheduler(child.pid) == os.SCHED_IDLE, "its class")
        assert child.nice() == 19
        until(lambda: child.children(recursive=True), "the build server")
        assert {os.sched_getscheduler(each.pid) for each in child.children(recursive=True)} == {os.SCHED_IDLE}


def test_killed_it_comes_back_and_finishes(tmp_path: Path) -> None:
    told: list[str] = []
    with KernelProcess(tmp_path, KernelsSpec(), told.append, nice=0, backoff=QUICKLY) as beside:
        beside.request([VECTOR], ["bottleneck"], ["fast"])
        child = started(beside)
        child.send_signal(signal.SIGKILL)
        until(lambda: health(beside) is Health.FINISHED, "the end of the second process")
    assert states(tmp_path) == [State.VALIDATED]
    assert len(told) == 1
    assert "was killed by signal 9" in told[0]


def test_told_to_end_it_ends_with_all_its_children(tmp_path: Path) -> None:
    with KernelProcess(tmp_path, KernelsSpec(), print, nice=0) as beside:
        beside.request([VECTOR], ["bottleneck"], ["fast"])
        child = started(beside)
        until(lambda: child.children(recursive=True), "the build server")
        family = [child, *child.children(recursive=True)]
    until(lambda: not any(each.is_running() for each in family), "the end of its children")


def test_it_does_not_outlive_its_trainer(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from artifacts import VECTOR\n"
        "from esper.weatherlight.beside import KernelProcess; from leyline.resources import KernelsSpec\n"
        "beside = KernelProcess(Path(sys.argv[1]), KernelsSpec(), print, nice=0)\n"
        "beside.request([VECTOR], ['bottleneck', 'low_rank', 'mlp'], ['fast'])\n"
        "while beside.pid is None: time.sleep(0.01)\n"
        "print(beside.pid, flush=True); time.sleep(600)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "support"), *sys.path])
    trainer = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert trainer.stdout is not None
    child = psutil.Process(int(trainer.stdout.readline()))
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    until(lambda: not child.is_running(), "the end of the process")


def test_what_it_can_not_do_is_told_and_given_up(tmp_path: Path) -> None:
    told: list[str] = []
    with KernelProcess(tmp_path, KernelsSpec(), told.append, nice=0, backoff=QUICKLY) as beside:
        beside.request([VECTOR], ["no_such_design"], ["fast"])
        until(lambda: health(beside) is Health.FAILED, "the failure")
    assert len(told) == 2
    assert "no_such_design" in told[0]


def test_a_library_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "library").write_bytes(b"")  # a file where its directory should be
    told: list[str] = []
    with KernelProcess(tmp_path / "library", KernelsSpec(), told.append, nice=0, backoff=QUICKLY) as beside:
        beside.request([VECTOR], ["bottleneck"], ["fast"])
        until(lambda: health(beside) is Health.FAILED, "the failure")
    assert str(tmp_path / "library") in told[0]
