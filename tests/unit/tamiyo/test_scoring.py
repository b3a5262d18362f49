"""Which kernel ranks first, one property at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from esper.tamiyo.evidence import HOPE, Evidence
from esper.tamiyo.scoring import Lessons, rank


def order(
    t: SimpleNamespace, *kernels: Any, budget: dict[str, Any] | None = None, lessons: Lessons | None = None
) -> list[str]:
    view = t.view(budget=budget)
    slot = next(iter(view.slots.values()))
    scored = rank(kernels, view, slot, t.CostModel(t.spec()), lessons or Lessons())
    return [one.record.blueprint for one in scored]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"latency_ms": 1.0}, {"latency_ms": 4.0}),
        ({"memory_mb": 1.0}, {"memory_mb": 4.0}),
        ({"ratio": 0.6}, {"ratio": 1.2}),
        ({"risk": 0.0}, {"risk": 0.5}),
        ({"flops": 9000}, {"flops": 1000}),
    ],
)
def test_all_else_equal(t: SimpleNamespace, better: dict[str, Any], worse: dict[str, Any]) -> None:
    # the ids would order them the other way round
    assert order(t, t.kernel(1, "worse", **worse), t.kernel(2, "better", **better)) == ["better", "worse"]


def test_ties_go_to_the_smaller_artifact_id(t: SimpleNamespace) -> None:
    assert order(t, t.kernel(3, "c"), t.kernel(1, "a"), t.kernel(2, "b")) == ["a", "b", "c"]


def test_what_was_not_measured_counts_as_typical(t: SimpleNamespace) -> None:
    unknown = t.kernel(2, "unknown", latency_ms=None, memory_mb=None, ratio=None)
    assert order(t, t.kernel(1, "slow", latency_ms=3.0), unknown, t.kernel(3, "fast", latency_ms=1.0)) == [
        "fast",
        "unknown",
        "slow",
    ]


def test_a_tight_budget_prefers_the_cheap_kernel(t: SimpleNamespace) -> None:
    large = t.kernel(1, "large", flops=40_000)
    small = t.kernel(2, "small", flops=2000)
    assert order(t, large, small) == ["large", "small"]
    steps = {"flops_used": 0.0, "flops_limit": 400 * 3.0 * 20_000 * 100}
    falling = Lessons(exponent=0.4)
    assert order(t, large, small, budget=steps, lessons=falling) == ["small", "large"]


def test_parameters_alone_are_worth_nothing(t: SimpleNamespace) -> None:
    """The same parameters after the first block and after the last differ in worth as their FLOPs do."""
    many, few = t.kernel(2, "many", parameters=9000), t.kernel(1, "few", parameters=10)
    assert order(t, many, few) == ["few", "many"]  # a tie, and ties go by id


def test_a_blueprint_that_was_culled_before_ranks_lower(t: SimpleNamespace) -> None:
    evidence = Evidence()
    evidence.verdict("blocks.0", "a", promoted=False, effect=-0.01, error=0.01, loss=0.5, expected=0.1)
    lessons = Lessons(evidence)
    assert order(t, t.kernel(1, "a"), t.kernel(2, "b"), lessons=lessons) == ["b", "a"]


def test_each_kernel_that_was_kept_leaves_less_to_hope_for() -> None:
    hopes = [Lessons(kept=kept).of("blocks.0", "a").mean for kept in range(3)]
    assert hopes == [HOPE, HOPE / 2, HOPE / 4]
