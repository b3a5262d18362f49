"""Five minutes of the soak: everything is killed again and again, and nothing is lost, doubled or dangling."""

import subprocess
import sys
from pathlib import Path

import pytest

import parts
import real_postgres
import real_pulsar
import real_s3

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_five_minutes_of_kills_lose_nothing():
    try:
        real_postgres.binaries()
        real_s3.program()
        real_pulsar.jars()
    except parts.PartMissing as missing:
        parts.unavailable(str(missing))
    # Beside other tests there is less of the machine for everything that has to come up again between two kills.
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "300", "--gap", "12", "--pause", "30", "--seed", "7"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
