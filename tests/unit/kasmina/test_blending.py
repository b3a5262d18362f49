"""Ramps of alpha and the two blends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.blending import alpha_at, blend
from leyline.resources.enums import AlphaSchedule, Blend


@given(st.sampled_from(AlphaSchedule), st.floats(-0.5, 1.5), st.floats(-0.5, 1.5))
def test_ramps_are_monotone_and_meet_their_ends(schedule, left, right):
    low, high = sorted((left, right))
    assert 0.0 <= alpha_at(schedule, low) <= alpha_at(schedule, high) <= 1.0
    assert alpha_at(schedule, 0.0) == 0.0
    assert alpha_at(schedule, 1.0) == 1.0


@pytest.mark.parametrize("schedule", AlphaSchedule)
def test_ramps_are_symmetric(schedule):
    for progress in (0.1, 0.25, 0.5):
        assert alpha_at(schedule, progress) + alpha_at(schedule, 1 - progress) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", Blend)
def test_full_blend_equals_alpha_one(kind):
    u, s = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(blend(kind, u, s, None), blend(kind, u, s, torch.ones(())))
    assert torch.equal(blend(kind, u, s, torch.zeros(())), u)
    half = blend(kind, u.bfloat16(), s.bfloat16(), torch.tensor(0.5))
    assert half.dtype is torch.bfloat16


def test_blends_are_what_they_say():
    u, s, alpha = torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor(0.25)
    assert blend(Blend.RESIDUAL, u, s, alpha).item() == 3.0
    assert blend(Blend.CONVEX, u, s, alpha).item() == 2.5


def test_a_full_convex_blend_survives_in_place_operations_of_the_host():
    """What comes out is not the tensor the kernel saved for its backward pass."""
    u = torch.randn(4, 3, requires_grad=True)
    branch = torch.tanh(u)
    joined = blend(Blend.CONVEX, u, branch, None)
    joined.relu_()
    joined.sum().backward()
    kept = torch.tanh(u.detach())
    assert torch.equal(branch, kept)
    assert torch.allclose(u.grad, (1 - kept**2) * (kept > 0))
