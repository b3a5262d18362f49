"""The lifecycle: the table says what the design says, no walk through it breaks a promise, and the page is fresh."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leyline.errors import LifecycleError
from leyline.lifecycle import STAGES, TRANSITIONS, Actor, Gate, Stage, allowed, check

S = Stage
REPOSITORY = Path(__file__).resolve().parents[3]

DESIGN = {
    S.UNSPECIFIED: set(),
    S.DORMANT: {S.GERMINATED},
    S.GERMINATED: {S.LOADING, S.CANCELLED, S.ROLLED_BACK},
    S.LOADING: {S.TRAINING, S.GRAFTING, S.CULLED, S.ROLLED_BACK},
    S.TRAINING: {S.GRAFTING, S.CULLED, S.CANCELLED, S.ERROR_RECOVERY, S.ROLLED_BACK},
    S.GRAFTING: {S.STABILIZATION, S.CULLED, S.ERROR_RECOVERY, S.ROLLED_BACK},
    S.STABILIZATION: {S.EVALUATING, S.CULLED, S.ERROR_RECOVERY, S.ROLLED_BACK},
    S.EVALUATING: {S.FINE_TUNING, S.FOSSILIZED, S.CULLED, S.ERROR_RECOVERY, S.ROLLED_BACK},
    S.FINE_TUNING: {S.FOSSILIZED, S.CULLED, S.ERROR_RECOVERY, S.ROLLED_BACK},
    S.FOSSILIZED: set(),
    S.CULLED: {S.DORMANT},
    S.CANCELLED: {S.DORMANT},
    S.ERROR_RECOVERY: {S.CULLED, S.ROLLED_BACK},
    S.ROLLED_BACK: set(),
}


def test_the_moves_are_those_of_the_design() -> None:
    assert {stage: set(allowed(stage)) for stage in Stage} == DESIGN


def test_the_numbers_never_change() -> None:
    assert [(stage.name, int(stage)) for stage in Stage] == [
        ("UNSPECIFIED", 0),
        ("DORMANT", 1),
        ("GERMINATED", 2),
        ("LOADING", 3),
        ("TRAINING", 4),
        ("GRAFTING", 5),
        ("STABILIZATION", 6),
        ("EVALUATING", 7),
        ("FINE_TUNING", 8),
        ("FOSSILIZED", 9),
        ("CULLED", 10),
        ("CANCELLED", 11),
        ("ERROR_RECOVERY", 12),
        ("ROLLED_BACK", 13),
    ]


def test_every_stage_is_described_once_and_every_move_listed_once() -> None:
    assert set(STAGES) == set(Stage) - {S.UNSPECIFIED}
    moves = [(t.source, t.target) for t in TRANSITIONS]
    assert len(moves) == len(set(moves))
    assert all(info.terminal == (not allowed(stage)) for stage, info in STAGES.items())
    assert all(t.ordered_by for t in TRANSITIONS)


def test_every_stage_can_be_reached() -> None:
    reached, waiting = {S.DORMANT}, [S.DORMANT]
    while waiting:
        for target in allowed(waiting.pop()) - reached:
            reached.add(target)
            waiting.append(target)
    assert reached == set(STAGES)


@given(st.sampled_from(Stage), st.sampled_from(Stage), st.sampled_from(Actor), st.booleans())
def test_check_agrees_with_the_table(source: Stage, target: Stage, actor: Actor, trainable: bool) -> None:
    listed = [
        t
        for t in TRANSITIONS
        if (t.source, t.target) == (source, target)
        and actor in t.ordered_by
        and not (t.only_trainable and not trainable)
        and not (t.only_fixed_function and trainable)
    ]
    if listed:
        assert check(source, target, actor, trainable) is listed[0]
        return
    with pytest.raises(LifecycleError) as caught:
        check(source, target, actor, trainable)
    assert str(caught.value).startswith(f"{source.name} to {target.name}: ")
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("source", "target", "actor", "trainable", "words"),
    [
        (S.FOSSILIZED, S.CULLED, Actor.TAMIYO, True, "no such transition .*terminal"),
        (S.TRAINING, S.FOSSILIZED, Actor.TAMIYO, True, "no such transition .*GRAFTING"),
        (S.DORMANT, S.GERMINATED, Actor.KASMINA, True, "kasmina may not order it .allowed: tamiyo"),
        (S.LOADING, S.TRAINING, Actor.KASMINA, False, "the kernel is not trainable .allowed: trainable"),
        (S.LOADING, S.GRAFTING, Actor.KASMINA, True, "the kernel is trainable .allowed: fixed-function"),
        (S.UNSPECIFIED, S.DORMANT, Actor.KASMINA, True, "no such transition"),
    ],
)
def test_refusals_say_what_would_be_allowed(
    source: Stage, target: Stage, actor: Actor, trainable: bool, words: str
) -> None:
    with pytest.raises(LifecycleError, match=words):
        check(source, target, actor, trainable)


def test_the_deciding_gate_is_the_last_one_asked() -> None:
    move = check(S.TRAINING, S.GRAFTING, Actor.TAMIYO)
    assert (move.gates, move.gate) == ((Gate.G1, Gate.G2), Gate.G2)
    assert check(S.STABILIZATION, S.EVALUATING, Actor.TAMIYO).gate is None


class SeedLife(RuleBasedStateMachine):
    """Anyone orders anything of a seed; whatever is let through must keep the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.begin(True)

    def begin(self, trainable: bool) -> None:
        self.trainable = trainable
        self.stage = S.DORMANT
        self.passed: set[Gate] = set()
        self.visited = [S.DORMANT]

    @initialize(trainable=st.booleans())
    def first(self, trainable: bool) -> None:
        self.begin(trainable)

    @precondition(lambda self: STAGES[self.stage].terminal)
    @rule(trainable=st.booleans())
    def another(self, trainable: bool) -> None:
        self.begin(trainable)

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """Take a way out that the table has, so that long lives come up often."""
        ways = [t for t in TRANSITIONS if t.source is self.stage and t.target is not S.ROLLED_BACK]
        if ways:
            way = data.draw(st.sampled_from(ways))
            self._order(way.target, data.draw(st.sampled_from(sorted(way.ordered_by))))

    @rule(wanted=st.sampled_from(Stage), actor=st.sampled_from(Actor))
    def demand(self, wanted: Stage, actor: Actor) -> None:
        self._order(wanted, actor)

    def _order(self, target: Stage, actor: Actor) -> None:
        try:
            transition = check(self.stage, target, actor, self.trainable)
        except LifecycleError:
            return
        assert not STAGES[self.stage].terminal
        self.stage = target
        self.passed.update(transition.gates)
        self.visited.append(target)
        if target is S.DORMANT:
            assert Gate.G5 in transition.gates
            self.begin(self.trainable)

    @invariant()
    def nothing_but_the_dormant_escaped_the_sanity_gate(self) -> None:
        assert self.stage is S.DORMANT or Gate.G0 in self.passed

    @invariant()
    def nothing_touches_the_host_unproven(self) -> None:
        if STAGES[self.stage].affects_host:
            assert Gate.G3 in self.passed
            assert not self.trainable or {Gate.G1, Gate.G2} <= self.passed

    @invariant()
    def nothing_stays_without_having_beaten_the_twin(self) -> None:
        if self.stage in (S.FINE_TUNING, S.FOSSILIZED):
            assert Gate.G4 in self.passed
            assert {S.GRAFTING, S.STABILIZATION, S.EVALUATING} <= set(self.visited)

    @invariant()
    def a_fixed_function_is_never_trained_alone(self) -> None:
        if not self.trainable:
            assert not {S.TRAINING, S.FINE_TUNING} & set(self.visited)

    @invariant()
    def a_cancelled_seed_never_touched_the_host(self) -> None:
        if self.stage is S.CANCELLED:
            assert not any(STAGES[stage].affects_host for stage in self.visited)


TestSeedLife = SeedLife.TestCase
TestSeedLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.fixture
def gen_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_docs", REPOSITORY / "scripts" / "gen_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path, gen_docs: ModuleType) -> Path:
    for name in gen_docs.PARTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def test_the_page_is_fresh(gen_docs: ModuleType) -> None:
    assert gen_docs.main(["--check"]) == 0


def test_the_page_shows_every_move(gen_docs: ModuleType) -> None:
    text = (REPOSITORY / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    for t in TRANSITIONS:
        assert f"| `{t.source.name}` | `{t.target.name}` | {', '.join(sorted(t.ordered_by))} |" in text
    for stage in STAGES:
        assert f"| `{stage.name}` | {int(stage)} |" in text


def test_a_stale_page_fails_the_check_and_is_rewritten(gen_docs: ModuleType, copied: Path) -> None:
    page = copied / "docs" / "lifecycle.md"
    there = sorted(page.parent.iterdir())
    fresh = page.read_text(encoding="utf-8")
    page.write_text(fresh.replace("| `DORMANT` | 1 |", "| `DORMANT` | 2 |"), encoding="utf-8")
    assert gen_docs.main(["--check"], root=copied) == 1
    assert "| `DORMANT` | 2 |" in page.read_text(encoding="utf-8")
    assert gen_docs.main([], root=copied) == 0
    assert page.read_text(encoding="utf-8") == fresh
    assert sorted(page.parent.iterdir()) == there


def test_a_page_that_lost_its_markers_fails_the_check(
    gen_docs: ModuleType, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copied / "docs" / "lifecycle.md"
    page.write_text(page.read_text(encoding="utf-8").replace("generated: gates", "gates"), encoding="utf-8")
    assert gen_docs.main(["--check"], root=copied) == 1
    assert "expected" in capsys.readouterr().err
