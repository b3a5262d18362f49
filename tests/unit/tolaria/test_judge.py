from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.judge import compare


def losses(seed: int, examples: int = 500, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(examples, generator=generator, dtype=torch.float64) + shift


def test_equal_lines_are_no_improvement():
    same = losses(0)
    verdict = compare([same], [same], p_value=0.005, clip=1.0)
    assert not verdict.passed
    assert verdict.effect == 0.0
    assert verdict.p_value == pytest.approx(0.5)


def test_a_seed_that_lowers_the_loss_passes_and_one_that_raises_it_does_not():
    host, twin = losses(1), losses(1, shift=0.1) + 0.01 * losses(2)
    assert compare([host], [twin], p_value=0.005, clip=1.0).passed
    worse = compare([twin], [host], p_value=0.005, clip=1.0)
    assert not worse.passed
    assert worse.p_value > 0.99


def test_a_few_extreme_examples_cannot_decide():
    host = losses(3, 2000)
    twin = host - 0.01 + 0.05 * (losses(4, 2000) - 0.5)
    twin[:5] += 1e6
    assert not compare([host], [twin], p_value=0.005, clip=1.0).passed


def test_nan_never_passes():
    host, twin = losses(5), losses(5, shift=0.5)
    twin[7] = float("nan")
    assert not compare([host], [twin], p_value=0.005, clip=1.0).passed


def test_minimum_effect_must_be_exceeded():
    host = losses(6)
    twin = host + 0.02 + 0.001 * losses(7)
    assert compare([host], [twin], p_value=0.005, clip=1.0).passed
    assert not compare([host], [twin], p_value=0.005, clip=1.0, minimum_effect=0.05).passed


def test_disagreement_between_replicates_widens_the_interval():
    host = losses(8)
    agree = compare([host, host], [host + 0.02, host + 0.02 + 1e-6 * losses(9)], p_value=0.005, clip=1.0)
    quarrel = compare([host, host], [host + 0.1, host - 0.06], p_value=0.005, clip=1.0)
    assert agree.effect == pytest.approx(quarrel.effect, abs=1e-5)
    assert quarrel.high - quarrel.low > 10 * (agree.high - agree.low)
    assert not quarrel.passed


@given(seed=st.integers(0, 10**6), shift=st.floats(-0.2, 0.2))
def test_the_interval_holds_the_effect_and_agrees_with_p(seed, shift):
    host, twin = losses(seed, 200), losses(seed + 1, 200, shift)
    verdict = compare([host], [twin], p_value=0.025, clip=1.0)
    assert verdict.low <= verdict.effect <= verdict.high
    # the two-sided 95 % interval excludes zero from below exactly when the one-sided p is under 2.5 %
    assert verdict.passed == (verdict.low > 0.0)


def test_under_the_null_the_error_rate_is_the_stated_one():
    passed = sum(compare([losses(2 * k)], [losses(2 * k + 1)], p_value=0.05, clip=1.0).passed for k in range(1000))
    assert 25 <= passed <= 80  # 50 expected; these bounds hold with probability > 0.9999


@pytest.mark.parametrize(("host", "twin"), [([], []), ([losses(0)], []), ([losses(0)], [losses(0, 499)])])
def test_lines_that_do_not_match_are_refused(host, twin):
    with pytest.raises(ValueError, match="same"):
        compare(host, twin, p_value=0.005, clip=1.0)
