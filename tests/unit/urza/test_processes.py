"""Several processes on one library: nobody loses, nobody doubles, and a killed one leaves nothing half-done."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.urza import SqlLibrary, State

PRELUDE = """
import importlib.util, itertools, json, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("samples", sys.argv[1])
samples = importlib.util.module_from_spec(spec)
sys.modules["samples"] = samples
spec.loader.exec_module(samples)
from esper.urza import SqlLibrary
root = Path(sys.argv[2])
"""

# A writer taking an artifact the whole way, once for every moment at which it can be killed: the first child dies at
# the first moment of a kind, the next at the second, until one gets through. Forked, so that imports are paid once.
KILLED = (
    PRELUDE
    + """
import shutil
from sqlalchemy import event
from esper.urza.blobs import DirectoryBlobs
one = samples.Sample()

def work(home, kind, at):
    library = SqlLibrary.open(home / "library")
    seen = itertools.count(1)

    def maybe_die(*args, **kwargs):
        if next(seen) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(function):
        def wrapped(*args, **kwargs):
            maybe_die()
            return function(*args, **kwargs)
        return wrapped

    match kind:
        case "blob":
            DirectoryBlobs.put = dying(DirectoryBlobs.put)
        case "rename":
            os.replace = dying(os.replace)
        case "statement":
            event.listen(library._database.engine, "before_cursor_execute", maybe_die)
        case "commit":
            event.listen(library._database.engine, "commit", maybe_die)
    one.enter(library)
    directory = one.write(home / "work")
    library.built(one.id, directory)
    library.begin_benchmark(one.id)
    (directory / "signatures" / "validated.json").write_bytes(b"{}")
    library.certify(one.id, one.report(), directory)

SqlLibrary.open(root / "template").close()
for kind in ("blob", "rename", "statement", "commit"):
    for at in itertools.count(1):
        home = root / f"{kind}-{at}"
        shutil.copytree(root / "template", home / "library")
        child = os.fork()
        if child == 0:
            work(home, kind, at)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(home.name, status, flush=True)
        if status != -signal.SIGKILL:
            break
"""
)

# One of several writers on the same artifacts, in an order of its own.
COMPETING = (
    PRELUDE
    + """
import random
print("started", flush=True)
library = SqlLibrary.open(root / "library")
order = [samples.Sample(factor) for factor in range(1, 6)]
random.Random(int(sys.argv[3])).shuffle(order)
for one in order:
    one.enter(library)
    directory = one.write(root / f"work{sys.argv[3]}")
    library.built(one.id, directory)
    library.begin_benchmark(one.id)
    library.certify(one.id, one.report(), directory)
print(json.dumps([library.record(one.id).state for one in order]))
"""
)


def start(script: str, tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    helpers = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", script, str(helpers), str(tmp_path), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, -signal.SIGKILL), err
    return process.returncode, out


def check(library: SqlLibrary, tmp_path: Path) -> None:
    """What must hold whatever happened: every row's files are there, whole, and its history leads to its state."""
    for record in library.records():
        history = library.history(record.artifact_id)
        assert history[-1].target is record.state
        assert all(later.source is earlier.target for earlier, later in itertools.pairwise(history))
        files = library.files(record.artifact_id)
        assert bool(files) == (record.state is not State.PENDING_BUILD)
        if files:
            assert library.fetch(record.artifact_id, tmp_path / "check").is_dir()
        assert len(library.reports(record.artifact_id)) == (record.state is State.VALIDATED)


def test_a_writer_killed_at_any_moment_leaves_no_dangling_row(sample: Callable[..., Any], tmp_path: Path) -> None:
    code, out = finish(start(KILLED, tmp_path))
    ended = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [status for _, status in ended if status != "-9"] == ["0"] * 4, "the last of each kind gets through"
    assert len(ended) > 40
    for name, _ in ended:
        home = tmp_path / name
        library = SqlLibrary.open(home / "library")
        check(library, home)
        one = sample()
        one.enter(library)
        directory = one.write(home / "again")
        library.built(one.id, directory)
        library.begin_benchmark(one.id)
        assert library.certify(one.id, one.report(), directory) is State.VALIDATED, name
        assert [record.artifact_id for record in library.records()] == [one.id]
        check(library, home)
        library.close()


def test_writers_killed_at_random_leave_no_dangling_row(library: SqlLibrary, tmp_path: Path) -> None:
    draw = random.Random(7)
    for number in range(3):
        process = start(COMPETING, tmp_path, number)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        finish(process)
        check(library, tmp_path)
    assert states_of(finish(start(COMPETING, tmp_path, 9))) == [State.VALIDATED] * 5
    check(library, tmp_path)


def states_of(finished: tuple[int, str]) -> list[State]:
    code, out = finished
    assert code == 0
    return [State(state) for state in json.loads(out.splitlines()[-1])]


def test_two_processes_decide_each_artifact_once(library: SqlLibrary, tmp_path: Path) -> None:
    writers = [start(COMPETING, tmp_path, number) for number in range(2)]
    for writer in writers:
        assert states_of(finish(writer)) == [State.VALIDATED] * 5
    assert len(library.records()) == 5
    for record in library.records():
        assert len(library.history(record.artifact_id)) == 4
    check(library, tmp_path)


def test_two_processes_open_a_new_library_at_once(tmp_path: Path) -> None:
    writers = [start(COMPETING, tmp_path, number) for number in range(2)]
    assert [finish(writer)[0] for writer in writers] == [0, 0]
    opened = SqlLibrary.open(tmp_path / "library")
    assert len(opened.records()) == 5
    opened.close()
