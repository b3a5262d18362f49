"""The whole installation on this machine, by the commands people use: it comes up, trains a run, and goes down.

The run that is trained there ends with the same bits as one in a single process, given the same library.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import copies
import parts
from stack import PROGRAMS, Stack

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mnist1d.yaml"
ESPER = Path(sys.executable).with_name("esper")
# Short, and yet with seeds that are judged; compiled kernels take minutes, and here it is about the way to them.
SHORTER = ["--set", "kernels.strategies=[Fast]", "--set", "training.epochs=12", "--set", "controller.policy=Always"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack():
    with tempfile.TemporaryDirectory(prefix="esper-stack-") as folder:
        # PostgreSQL runs as a user of its own and has to get in.
        Path(folder).chmod(0o755)
        made = Stack(Path(folder) / "stack")
        try:
            made.up()
        except parts.PartMissing as missing:
            parts.unavailable(str(missing))
        try:
            yield made
        finally:
            made.down()


def esper(*words, stack):
    done = subprocess.run(
        [ESPER, *map(str, words)], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "ESPER_STACK": str(stack.home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_everything_runs_and_works(stack):
    assert {entry["name"]: entry["state"] for entry in stack.status()} == dict.fromkeys(PROGRAMS, "RUNNING")
    assert all(stack.ready(name) for name in PROGRAMS)


def test_a_run_ends_with_the_bits_of_one_in_a_single_process(stack, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    said = esper("run", "--stack", EXAMPLE, "-o", there, "--plain", *SHORTER, stack=stack)
    assert "kernel" in said
    keys = {name: (stack.home / "signing" / f"{name}.pem").read_bytes() for name in ("built", "validated")}
    library = copies.copied(stack.library(), keys, tmp_path / "library")
    esper("run", EXAMPLE, "-o", here, "--library", library, "--plain", *SHORTER, stack=stack)
    files = sorted(path.name for path in (there / "model").iterdir())
    assert files == sorted(path.name for path in (here / "model").iterdir())
    for name in files:
        assert (there / "model" / name).read_bytes() == (here / "model" / name).read_bytes(), name
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (there, here))
    assert one["seeds"], "no seed was tried, so nothing of the kernels' way was shown"
    for name in ("seeds", "controller", "report", "training_flops"):
        assert one[name] == other[name], name
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
