"""What verdicts teach: which hopes they move, and how far."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tamiyo.evidence import HIGHEST, HOPE, LOWEST, MOST, Belief, Evidence


def after(
    value: float, *, error: float = 0.0, slot: str = "a", blueprint: str = "x", expected: float = 0.1
) -> Evidence:
    """One verdict whose effect implies that κ."""
    evidence = Evidence()
    effect = 0.5 * -math.expm1(-value * expected)
    evidence.verdict(
        slot, blueprint, promoted=value > 0.0, effect=effect, error=0.5 * error * expected, loss=0.5, expected=expected
    )
    return evidence


def test_before_any_verdict_there_is_only_hope() -> None:
    assert Evidence().belief("a", "x") == Belief()
    assert Belief().mean == HOPE


def test_what_was_expected_leaves_the_hope_and_lessens_the_doubt() -> None:
    found = after(HOPE).belief("a", "x")
    assert found.mean == pytest.approx(HOPE)
    assert found.spread < Belief().spread


def test_a_cull_tells_most_about_the_same_kernel_in_the_same_slot() -> None:
    evidence = after(0.0)
    same = evidence.belief("a", "x").mean
    slot, blueprint = evidence.belief("a", "y").mean, evidence.belief("b", "x").mean
    other = evidence.belief("b", "y").mean
    assert 0.0 < same < slot < blueprint < other < HOPE


def test_evidence_moves_the_hope_both_ways() -> None:
    assert after(4.0).belief("b", "y").mean > HOPE > after(0.5).belief("b", "y").mean


def test_a_judge_who_saw_little_teaches_little() -> None:
    sure, unsure = after(0.0, error=0.1).belief("a", "x"), after(0.0, error=4.0).belief("a", "x")
    assert sure.mean < unsure.mean < HOPE
    assert sure.spread < unsure.spread < Belief().spread


def test_the_judges_error_is_remembered() -> None:
    evidence = Evidence()
    assert evidence.resolution is None
    evidence.verdict("a", "x", promoted=False, effect=0.01, error=0.02, loss=0.4, expected=0.1)
    assert evidence.resolution == pytest.approx(0.05)


def test_a_cull_without_a_measured_effect_lowers_the_hope_and_a_promotion_teaches_nothing() -> None:
    culled, promoted = Evidence(), Evidence()
    culled.verdict("a", "x", promoted=False, expected=0.1)
    promoted.verdict("a", "x", promoted=True, expected=0.1)
    assert culled.belief("a", "x").mean < HOPE
    assert promoted.belief("a", "x") == Belief()


def test_nothing_is_learned_where_nothing_was_expected() -> None:
    evidence = Evidence()
    evidence.verdict("a", "x", promoted=False, effect=-0.1, error=0.01, loss=0.5, expected=0.0)
    assert evidence.belief("a", "x") == Belief()


VERDICTS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from("xy"), st.booleans(),
        st.none() | st.floats(-2.0, 2.0), st.none() | st.floats(0.0, 1.0), st.none() | st.floats(0.0, 3.0),
        st.floats(0.0, 1.0),
    ),
    max_size=40,
)  # fmt: skip


@given(verdicts=VERDICTS)
def test_any_verdicts_leave_a_belief_within_bounds_that_survives_a_restart(verdicts: list[tuple]) -> None:  # type: ignore[type-arg]
    evidence = Evidence()
    doubts = []
    for slot, blueprint, promoted, effect, error, loss, expected in verdicts[:MOST]:
        evidence.verdict(slot, blueprint, promoted=promoted, effect=effect, error=error, loss=loss, expected=expected)
        doubts.append(evidence.belief("a", "x").spread)
    assert all(a >= b - 1e-9 for a, b in pairwise(doubts))
    revived = Evidence()
    revived.load_state_dict(json.loads(json.dumps(evidence.state_dict(), allow_nan=False)))
    for slot in "abcd":
        found = evidence.belief(slot, "x")
        assert 2 * LOWEST - HOPE <= found.mean <= 2 * HIGHEST
        assert 0.0 <= found.spread <= Belief().spread + 1e-9
        assert revived.belief(slot, "x") == found


def test_only_the_latest_verdicts_are_kept() -> None:
    evidence = Evidence()
    for _ in range(MOST):
        evidence.verdict("a", "x", promoted=False, effect=0.0, error=0.001, loss=0.5, expected=0.1)
    low = evidence.belief("a", "x").mean
    for _ in range(MOST):
        evidence.verdict("a", "x", promoted=True, effect=0.2, error=0.001, loss=0.5, expected=0.1)
    assert low < 0.2
    assert evidence.belief("a", "x").mean > 4.0
    assert len(evidence.state_dict()["seen"]) == MOST
