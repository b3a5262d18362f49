from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.output.report.charts import Box, Line, Scale, line_chart, log_steps, number, steps, thin

finite = st.floats(min_value=-1e12, max_value=1e12, allow_nan=False)
BOX = Box(10.0, 1000.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (586, "586"), (1_234_567, "1,234,567"), (0.94651, "0.9465"), (12345.6, "12,346"),
        (2.45e10, "2.45e10"), (0.0004, "4e-4"), (-1.25e-7, "-1.25e-7"), (1e12, "1e12"), (-0.5, "-0.5"), (True, "yes"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert number(value) == text


@given(finite, finite)
def test_axis_steps_are_round_ordered_and_inside(first: float, second: float) -> None:
    low, high = sorted((first, second))
    found = steps(low, high, 5)
    assert found == sorted(set(found))
    assert len(found) <= 12
    slack = 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= value <= high + slack for value in found)


@given(st.floats(min_value=1e-9, max_value=1e6), st.floats(min_value=31, max_value=1e9))
def test_logarithmic_steps_are_few_and_inside(low: float, factor: float) -> None:
    found = log_steps(low, low * factor)
    assert 1 <= len(found) <= 7
    assert all(low <= value <= low * factor for value in found)


@given(finite, finite, finite)
def test_a_scale_never_leaves_its_box(first: float, second: float, value: float) -> None:
    low, high = sorted((first, second))
    assert 10 <= Scale(low, high, 10, 90)(value) <= 90


def test_a_scale_is_straight() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale(value) for value in (0, 2.5, 10)] == [100, 125, 200]
    assert Scale(1, 100, 0, 100, log=True)(10) == 50


def test_thinning_keeps_the_ends_the_order_and_every_spike() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(5000)]
    points[3210] = (3210.0, 99.0)
    points[1234] = (1234.0, -99.0)
    kept = thin(points, 200)
    assert len(kept) <= 200
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert {(3210.0, 99.0), (1234.0, -99.0)} <= set(kept)
    assert thin(points[:100], 200) == points[:100]


def test_a_curve_breaks_where_a_value_is_missing() -> None:
    chart = line_chart("t", "d", [Line("a", "a", [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 2.0)])], BOX)
    (curve,) = chart.curves
    assert curve.path.count("M") == 2
    assert curve.path.count("L") == 2


def test_a_point_alone_is_a_dot() -> None:
    (curve,) = line_chart("t", "d", [Line("a", "a", [(1, 1.0)])], BOX).curves
    assert curve.path == ""
    assert len(curve.dots) == 1


def test_curves_without_any_value_still_make_a_chart() -> None:
    chart = line_chart("t", "d", [Line("a", "a", [(1, None)]), Line("b", "b", [])], BOX)
    assert all(curve.last is None for curve in chart.curves)


def test_labels_at_the_ends_do_not_cover_each_other() -> None:
    lines = [Line(name, name, [(0, 0.0), (10, 1.0)]) for name in "abcd"]
    chart = line_chart("t", "d", lines, BOX)
    heights = sorted(curve.last[1] for curve in chart.curves if curve.last)
    assert all(below - above >= 13.9 for above, below in itertools.pairwise(heights))


def test_a_wide_positive_range_gets_a_logarithmic_axis() -> None:
    wide = line_chart("t", "d", [Line("a", "a", [(0, 100.0), (10, 0.1)])], BOX)
    assert {"0.1", "1", "10", "100"} <= {tick.text for tick in wide.yticks}


def test_the_pointer_finds_the_values_of_every_line_at_an_epoch() -> None:
    lines = [Line("train", "t", [(1, 2.0), (2, 1.0)]), Line("controller", "c", [(2, 1.5)])]
    bands = line_chart("t", "d", lines, BOX).bands
    assert [band.text for band in bands] == ["epoch 1\ntrain 2", "epoch 2\ntrain 1\ncontroller 1.5"]
