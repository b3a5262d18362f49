"""The collector against a model: uploads, leases, ends, sweeps and writers that die, in any order at any age.

What must hold after every step: whatever can still be offered, built or measured, whatever a run leases, and whatever
was put a moment ago can be read, whole. What must hold at the end: with no lease left and all time passed, nothing but
the files of living artifacts remains.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from esper.urza import DirectoryBlobs, SqlLibrary, State, UnknownArtifact

GRACE = 1000.0
RUNS = ("run-1", "run-2")
ENDED = (State.REJECTED, State.RETIRED)


class Collection(RuleBasedStateMachine):
    sample_type: Callable[..., Any]
    template: Path

    @initialize()
    def open(self) -> None:
        self.tmp = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.tmp / "library")
        self.passed = 0.0
        self.library = self.opened()
        self.samples = [self.sample_type(factor) for factor in (1, 2, 3)]
        self.directories = [sample.write(self.tmp / "work") for sample in self.samples]
        for sample in self.samples:
            sample.enter(self.library)
        self.states = [State.PENDING_BUILD] * 3
        self.ended_at = [0.0] * 3
        self.has_files = [False] * 3
        self.leases: dict[tuple[str, int], float] = {}
        self.loose: dict[str, float] = {}

    def opened(self) -> SqlLibrary:
        # Its clock runs ahead of the machine's; blobs are made older instead.
        return SqlLibrary.open(self.tmp / "library", clock=lambda: time.time() + self.passed)

    def teardown(self) -> None:
        if not hasattr(self, "tmp"):
            return
        for run in RUNS:
            self.library.release(run)
        self.pass_time(10 * GRACE)
        self.library.sweep(GRACE)
        living = {
            file.digest
            for which, sample in enumerate(self.samples)
            if self.states[which] not in ENDED
            for file in self.library.files(sample.id)
        }
        left = {blob.digest for blob in DirectoryBlobs(self.tmp / "library" / "blobs").list()}
        self.library.close()
        shutil.rmtree(self.tmp)
        assert left == living, "everything that is nobody's is gone, and nothing else"

    def moved(self, which: int, state: State) -> None:
        if self.states[which] is not state:
            self.states[which] = state
            if state in ENDED:
                self.ended_at[which] = self.passed

    @rule(which=st.integers(0, 2))
    def build(self, which: int) -> None:
        state = self.library.built(self.samples[which].id, self.directories[which])
        if self.states[which] is State.PENDING_BUILD:
            self.has_files[which] = True
        self.moved(which, state)

    @rule(which=st.integers(0, 2))
    def end(self, which: int) -> None:
        before = self.states[which]
        state = self.library.reject(self.samples[which].id, "wrong")
        if before is not state:
            self.moved(which, state)

    @rule(which=st.integers(0, 2))
    def again(self, which: int) -> None:
        if self.states[which] is State.REJECTED:
            self.library.retry(self.samples[which].id, "again")
            self.states[which], self.has_files[which] = State.PENDING_BUILD, False

    @rule(which=st.integers(0, 2), run=st.sampled_from(RUNS), seconds=st.sampled_from([10.0, 500.0, 5000.0]))
    def lease(self, which: int, run: str, seconds: float) -> None:
        identity = self.samples[which].id
        if not self.has_files[which]:
            with pytest.raises(UnknownArtifact):
                self.library.lease(run, [identity], seconds)
            return
        self.library.lease(run, [identity], seconds)
        held = self.leases.get((run, which), 0.0)
        self.leases[run, which] = max(held, self.passed + seconds)

    @rule(run=st.sampled_from(RUNS))
    def release(self, run: str) -> None:
        self.library.release(run)
        self.leases = {key: until for key, until in self.leases.items() if key[0] != run}

    @rule(number=st.integers(0, 3))
    def a_writer_dies_before_its_row(self, number: int) -> None:
        data = f"loose {number}".encode()
        digest = hashlib.sha256(data).hexdigest()
        self.library.blobs.put(digest, data)
        self.loose[digest] = self.passed

    @rule(which=st.integers(0, 2))
    def a_writer_dies_with_half_of_an_artifact(self, which: int) -> None:
        for path in sorted(self.directories[which].rglob("*")):
            if path.is_file():
                self.library.blobs.put(hashlib.sha256(path.read_bytes()).hexdigest(), path)
                return

    @rule(seconds=st.sampled_from([1.0, 400.0, 1200.0]))
    def pass_time(self, seconds: float) -> None:
        self.passed += seconds
        for path in (self.tmp / "library" / "blobs").glob("??/*"):
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))

    @rule()
    def restart(self) -> None:
        self.library.close()
        self.library = self.opened()

    @rule(grace=st.sampled_from([GRACE, 5 * GRACE]))
    def sweep(self, grace: float) -> None:
        self.library.sweep(grace)
        for which, state in enumerate(self.states):
            leased = any(key[1] == which and until > self.passed for key, until in self.leases.items())
            if state in ENDED and not leased and self.passed - self.ended_at[which] > grace:
                assert self.library.files(self.samples[which].id) == [], "collected once it is old enough"
                self.has_files[which] = False

    @precondition(lambda self: hasattr(self, "library"))
    @invariant()
    def what_is_needed_is_there(self) -> None:
        for which, sample in enumerate(self.samples):
            leased = any(key[1] == which and until > self.passed for key, until in self.leases.items())
            young = self.passed - self.ended_at[which] < GRACE
            if self.has_files[which] and (self.states[which] not in ENDED or leased or young):
                shutil.rmtree(self.tmp / "cache", ignore_errors=True)
                assert self.library.fetch(sample.id, self.tmp / "cache").is_dir()
        for digest, put in self.loose.items():
            if self.passed - put < GRACE:
                assert self.library.blobs.info(digest) is not None, "a fresh upload waits for its row"


def test_the_collector_takes_nothing_that_is_needed(sample: Callable[..., Any], tmp_path: Path) -> None:
    Collection.sample_type = sample
    Collection.template = tmp_path / "template"
    SqlLibrary.open(Collection.template).close()
    run_machine(Collection, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))
