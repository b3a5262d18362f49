from __future__ import annotations

import random

import pytest
import torch

from esper.errors import NumericalFault, StepTimeout
from esper.tolaria.governor import Governor


def healthy(governor: Governor, steps: int = 300, seed: int = 0) -> int:
    draw = random.Random(seed)
    governor.begin_epoch()
    for step in range(steps):
        governor.check_step(step, 2.3 * 0.99**step + 0.1 * draw.lognormvariate(0, 1))
    return steps


def diverge(governor: Governor, first: int) -> None:
    for step in range(first, first + 40):
        governor.check_step(step, 9.0)


@pytest.mark.parametrize("seed", range(20))
def test_ordinary_noise_is_no_spike(seed):
    assert healthy(Governor(8.0, 60.0), 2000, seed) == 2000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_a_fault_at_once(value):
    governor = Governor(8.0, 60.0)
    with pytest.raises(NumericalFault, match="step 3"):
        governor.check_step(3, value)


def test_one_hard_batch_is_no_spike_but_a_jump_that_stays_is():
    governor = Governor(8.0, 60.0)
    steps = healthy(governor)
    governor.check_step(steps, 3.0)
    with pytest.raises(NumericalFault, match="loss spike"):
        diverge(governor, steps + 1)


def test_the_memory_survives_a_checkpoint():
    governor, other = Governor(8.0, 60.0), Governor(8.0, 60.0)
    healthy(governor)
    other.load(governor.to_dict())
    assert other.to_dict() == governor.to_dict()
    other.begin_epoch()
    with pytest.raises(NumericalFault, match="loss spike"):
        diverge(other, 0)


def test_a_slow_step_is_named():
    governor = Governor(8.0, 0.0)
    governor.begin_epoch()
    with pytest.raises(StepTimeout, match="stepTimeoutSeconds"):
        governor.check_step(1, 1.0)


def test_a_parameter_that_is_not_finite_is_named():
    Governor.check_tensors([("a", torch.zeros(3)), ("count", torch.tensor(3))])
    with pytest.raises(NumericalFault, match=r"blocks\.0\.weight"):
        Governor.check_tensors([("a", torch.zeros(3)), ("blocks.0.weight", torch.tensor([1.0, float("nan")]))])
