"""The trend: right on clean curves, unmoved by wild values, honest about doubt."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.tamiyo.trend import MAX_POINTS, fit


def power(n: int, exponent: float) -> list[float]:
    return [3.0 * (i + 1.0) ** -exponent for i in range(n)]


@pytest.mark.parametrize("exponent", [0.05, 0.3, 1.0])
def test_recovers_a_power_law(exponent: float) -> None:
    trend = fit(power(30, exponent))
    assert trend is not None
    assert trend.slope == pytest.approx(-exponent)
    assert trend.at(60.0) == pytest.approx(3.0 * 60.0**-exponent)


def test_a_quarter_of_wild_values_does_not_move_it() -> None:
    losses = power(40, 0.3)
    for index in range(2, 40, 4):
        losses[index] *= 50.0
    trend = fit(losses)
    assert trend is not None
    assert trend.slope == pytest.approx(-0.3, abs=0.05)


def test_fewer_than_four_finite_values_say_nothing() -> None:
    assert fit([1.0, 0.9, 0.8]) is None
    assert fit([1.0, math.nan, 0.9, math.inf, 0.8]) is None
    assert fit(power(10, 0.5), start=7) is None


def test_losses_below_zero_are_fitted_on_their_own_scale() -> None:
    losses = [-1.0 - 0.5 * math.log(i + 1.0) for i in range(20)]
    trend = fit(losses)
    assert trend is not None
    assert trend.linear
    assert trend.at(40.0) == pytest.approx(-1.0 - 0.5 * math.log(40.0))
    assert trend.exponent > 0.0


def test_doubt_favours_the_host_and_shrinks_with_evidence() -> None:
    noise = random.Random(3)
    losses = [0.5 * math.exp(0.05 * noise.gauss(0.0, 1.0)) for _ in range(48)]
    few, many = fit(losses[:8], 4), fit(losses, 8)
    assert few is not None
    assert many is not None
    assert few.steepest <= few.slope
    assert many.steepest <= many.slope
    assert many.slope - many.steepest < few.slope - few.steepest


def test_rising_needs_more_than_noise() -> None:
    assert fit(power(20, -0.5)).rising  # type: ignore[union-attr]
    assert not fit(power(20, 0.5)).rising  # type: ignore[union-attr]
    assert not fit([0.5, 0.51, 0.49, 0.505, 0.495, 0.5]).rising  # type: ignore[union-attr]


def test_long_histories_are_thinned_but_keep_their_ends() -> None:
    trend = fit(power(5000, 0.2))
    assert trend is not None
    assert trend.points == MAX_POINTS
    assert trend.now == pytest.approx(5000.0)
    assert trend.slope == pytest.approx(-0.2)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=60),
    st.floats(1e-3, 1e3),
)
def test_scale_of_the_loss_does_not_matter(losses: list[float], factor: float) -> None:
    one, other = fit(losses), fit([factor * loss for loss in losses])
    assert one is not None
    assert other is not None
    assert other.slope == pytest.approx(one.slope, abs=1e-6)
    assert other.level == pytest.approx(factor * one.level, rel=1e-6)


@given(st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=60), st.floats(1.0, 10.0))
def test_a_forecast_is_never_above_the_present_level(losses: list[float], factor: float) -> None:
    trend = fit(losses)
    assert trend is not None
    assert trend.at(trend.now * factor) <= trend.level * (1.0 + 1e-12)
