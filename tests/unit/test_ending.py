"""The end of a process whose broker's client has threads of its own: as orderly as any other, with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time, types
from esper.ending import run_to_the_end
if {loaded}:
    sys.modules["_pulsar"] = types.ModuleType("_pulsar")

def last():
    time.sleep(0.2)
    print("thread")

class Kept:
    def __del__(self):
        print("torn down")

kept = Kept()
atexit.register(print, "exit function")

def command():
    threading.Thread(target=last).start()
    print("command", end=" ")
    {end}

run_to_the_end(command)
"""


ENDS = {"sys.exit(0)": 0, "sys.exit(3)": 3, "sys.exit(130)": 130, "sys.exit(None)": 0, "return": 0}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("loaded", [True, False])
def test_everything_is_done_that_is_done_at_an_end_and_the_code_is_kept(end: str, loaded: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(loaded=loaded, end=end)], capture_output=True, text=True, check=False
    )
    said = done.stdout.split("\n")[:-1]
    assert (done.returncode, done.stderr) == (ENDS[end], "")
    # Only where nobody's threads can call into it is the interpreter torn down.
    assert said == ["command thread", "exit function", *([] if loaded else ["torn down"])]


@pytest.mark.parametrize("loaded", [True, False])
def test_what_a_command_fails_with_is_said_as_ever(loaded: bool) -> None:
    program = PROGRAM.format(loaded=loaded, end="sys.exit('a reason')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "a reason")


def test_output_that_is_lost_is_an_error() -> None:
    program = """
import sys, types
from esper.ending import run_to_the_end
sys.modules["_pulsar"] = types.ModuleType("_pulsar")

def command():
    sys.stdout.write("x")
    sys.exit(0)

run_to_the_end(command)
"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, check=False, env=buffered)
    assert done.returncode == 120
