"""The lifecycle of an artifact against a model of eight lines, in any order of any steps, redelivered or not."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from esper.urza import SqlLibrary, StateConflict
from esper.urza.library import SOURCES, STEPS, State

P, B, Q, V, R, N, X = (
    State.PENDING_BUILD,
    State.BUILT,
    State.PENDING_BENCHMARK,
    State.VALIDATED,
    State.REJECTED,
    State.NOISY,
    State.RETIRED,
)
# What each step does in each state: the next state, the same one (nothing left to do), or a refusal (None).
TABLE: dict[str, dict[State, State | None]] = {
    "built": {P: B, B: B, Q: Q, V: V, R: R, N: N, X: X},
    "begin_benchmark": {P: None, B: Q, Q: Q, V: V, R: R, N: Q, X: X},
    "certify": {P: None, B: None, Q: V, V: V, R: R, N: N, X: X},
    "reject": {P: R, B: R, Q: R, V: V, R: R, N: R, X: X},
    "noisy": {P: None, B: None, Q: N, V: V, R: R, N: N, X: X},
    "retire": {P: None, B: None, Q: None, V: X, R: X, N: X, X: X},
    "retry": {P: P, B: None, Q: None, V: None, R: P, N: None, X: None},
}


def test_the_tables_agree() -> None:
    for state in State:
        for target in State:
            assert (target in STEPS[state]) == (state in SOURCES[target])
    stepped = {
        (state, after) for row in TABLE.values() for state, after in row.items() if after is not None and after != state
    }
    assert stepped == {(state, target) for state, targets in STEPS.items() for target in targets}


class Lifecycle(RuleBasedStateMachine):
    sample_type: Callable[..., Any]
    template: Path

    @initialize()
    def open(self) -> None:
        self.tmp = Path(tempfile.mkdtemp())
        shutil.copytree(self.template, self.tmp / "library")
        self.library = SqlLibrary.open(self.tmp / "library")
        self.samples = [self.sample_type(factor) for factor in (1, 2)]
        for sample in self.samples:
            sample.enter(self.library)
        self.directories = [sample.write(self.tmp / "work") for sample in self.samples]
        self.states = [P, P]
        self.changes = [1, 1]
        self.reports = [0, 0]

    def teardown(self) -> None:
        if hasattr(self, "tmp"):
            self.library.close()
            shutil.rmtree(self.tmp)

    def act(self, which: int, step: str) -> State:
        sample = self.samples[which]
        match step:
            case "built":
                return self.library.built(sample.id, self.directories[which])
            case "begin_benchmark":
                return self.library.begin_benchmark(sample.id)
            case "certify":
                return self.library.certify(sample.id, sample.report(), self.directories[which])
            case "reject" | "noisy":
                return getattr(self.library, step)(sample.id, "because", sample.report())  # type: ignore[no-any-return]
        return getattr(self.library, step)(sample.id, "because")  # type: ignore[no-any-return]

    @rule(which=st.integers(0, 1), step=st.sampled_from(sorted(TABLE)))
    def take(self, which: int, step: str) -> None:
        before = self.states[which]
        expected = TABLE[step][before]
        if expected is None:
            with pytest.raises(StateConflict, match=before.value):
                self.act(which, step)
            return
        assert self.act(which, step) is expected
        if expected is not before:
            self.states[which] = expected
            self.changes[which] += 1
            self.reports[which] += step in ("certify", "reject", "noisy")

    @rule(which=st.integers(0, 1))
    def ask_again(self, which: int) -> None:
        assert (
            self.library.begin(
                self.samples[which].id,
                self.samples[which].name,
                self.samples[which].interface,
                self.samples[which].strategy,
                self.samples[which].hardware,
                self.samples[which].toolchain,
            )
            is (self.states[which])
        )

    @rule()
    def restart(self) -> None:
        self.library.close()
        self.library = SqlLibrary.open(self.tmp / "library")

    @rule()
    def sweep(self) -> None:
        self.library.sweep(older_than_seconds=-60)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "library"):
            return
        for which, sample in enumerate(self.samples):
            assert self.library.record(sample.id).state is self.states[which]
            history = self.library.history(sample.id)
            assert len(history) == self.changes[which]
            assert history[-1].target is self.states[which]
            assert all(later.source is earlier.target for earlier, later in itertools.pairwise(history))
            assert len(self.library.reports(sample.id)) == self.reports[which]
            if self.states[which] in (B, Q, V, N):
                assert self.library.fetch(sample.id, self.tmp / "cache").is_dir()


def test_any_order_of_steps(sample: Callable[..., Any], tmp_path: Path) -> None:
    Lifecycle.sample_type = sample
    Lifecycle.template = tmp_path / "template"
    SqlLibrary.open(Lifecycle.template).close()
    run_state_machine_as_test(Lifecycle, settings=settings(max_examples=12, stateful_step_count=20, deadline=None))
