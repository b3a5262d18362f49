"""Intervals cover what they should."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.analysis import bootstrap, mean, median, paired_ratio, percentile, wilson
from tests.bench.report import ABOVE, BELOW, EXACT, Report, bounded, measured, number, reported, text_table


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_proportions_interval_holds_it_and_stays_within_bounds(case):
    successes, n = case
    found = wilson(successes, n)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    mirrored = wilson(n - successes, n)
    assert found.low == pytest.approx(1.0 - mirrored.high)


def test_wilson_agrees_with_published_values():
    """Newcombe 1998, table I, score method without continuity correction."""
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson(successes, n)
        assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("case", [(1, 0), (-1, 5), (6, 5)])
def test_impossible_proportions_are_refused(case):
    with pytest.raises(ValueError, match="successes"):
        wilson(*case)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_the_medians_interval_is_made_of_observations(values):
    found = median(values)
    assert found.low in values
    assert found.high in values
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("n", [6, 12, 40])
def test_the_medians_interval_covers_it_often_enough(n):
    draw = np.random.default_rng(n)
    estimates = [median(draw.normal(size=n).tolist()) for _ in range(600)]
    covered = sum(found.low <= 0.0 <= found.high for found in estimates)
    assert covered / 600 > 0.93


def test_the_means_interval_is_students():
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.high - found.value == pytest.approx(3.182446 * statistics.stdev([1, 2, 3, 4]) / 2)
    assert math.isinf(mean([1.0]).high)


def test_pairs_share_their_drift():
    reference = [1.0, 10.0, 100.0, 1000.0]
    assert paired_ratio([2 * r for r in reference], reference).value == 2.0
    with pytest.raises(ValueError, match="pairs"):
        paired_ratio([1.0], [0.0])


def test_the_bootstrap_repeats_and_holds_its_statistic():
    values = np.random.default_rng(0).normal(size=200).tolist()
    one, two = (bootstrap(values, lambda v: float(np.mean(v))) for _ in range(2))
    assert one == two
    exact = mean(values)
    assert one.low == pytest.approx(exact.low, abs=0.03)
    assert one.high == pytest.approx(exact.high, abs=0.03)


def test_a_percentile_needs_ten_observations_beyond_it():
    assert percentile([float(i) for i in range(199)], 0.95) is None
    assert percentile([float(i) for i in range(1001)], 0.95) == 950.0


@pytest.mark.parametrize(
    ("relation", "bound", "holds"), [(BELOW, 2, True), (BELOW, 1, False), (ABOVE, 2, False), (EXACT, 1.5, True)]
)
def test_a_promise_is_kept_or_broken_by_its_value(relation, bound, holds):
    found = mean([1.0, 2.0])
    assert bounded("p", "g", found, "s", relation, bound).holds is holds


def test_tables_say_what_does_not_hold_and_what_was_not_promised():
    found = mean([1.0, 2.0, 3.0])
    report = Report([bounded("p", "<= 1 s", found, "s", BELOW, 1.0), reported("q", found, "")], {"inf": math.inf})
    rows = report.to_dict()["rows"]
    text = text_table(rows)
    assert "DOES NOT HOLD" in text
    assert "(no promise)" in text
    assert measured(rows[0]) == "2 s [-0.484, 4.48], n=3"
    assert report.to_dict()["details"] == {"inf": None}


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0"), (0.00123456, "0.00123"), (12345.6, "12,346"), (math.nan, "–")]
)
def test_numbers_for_people(value, text):
    assert number(value) == text
