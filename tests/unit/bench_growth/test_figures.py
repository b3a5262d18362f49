from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.growth.figures import estimate, paired, worst


def test_the_interval_is_students():
    found = estimate([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    # t(0.975, 3) = 3.1824, standard error = 1.2910 / 2
    assert found.half == pytest.approx(3.1824 * 0.6455, rel=1e-3)
    assert found.n == 4


def test_one_value_has_no_interval_and_none_is_an_error():
    assert math.isnan(estimate([3.0]).half)
    with pytest.raises(ValueError, match="no values"):
        estimate([])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.floats(-1e3, 1e3))
def test_what_both_share_cancels_in_a_paired_difference(values, shift):
    first = dict(enumerate(values))
    second = {seed: value + shift for seed, value in first.items()}
    found = paired(second, first)
    assert found.mean == pytest.approx(shift, abs=1e-6)
    assert found.half == pytest.approx(0.0, abs=1e-6)


def test_only_seeds_that_both_have_are_paired():
    assert paired({0: 1.0, 1: 5.0}, {1: 2.0, 2: 9.0}).mean == 3.0
    with pytest.raises(ValueError, match="no values"):
        paired({0: 1.0}, {1: 1.0})


def test_the_worst_budget_counts_and_its_interval_covers_it():
    short = {seed: 0.1 + 0.01 * seed for seed in range(5)}
    long = dict.fromkeys(range(5), -0.5)
    found = worst([short, long])
    assert found.mean == pytest.approx(0.12)
    assert found.low < found.mean < found.high
    assert found == worst([long, short])


def test_seeds_without_all_budgets_are_left_out_of_the_worst():
    assert worst([{0: 1.0, 1: 9.0}, {0: 2.0}]).mean == 2.0
    with pytest.raises(ValueError, match="every budget"):
        worst([{0: 1.0}, {1: 1.0}])
