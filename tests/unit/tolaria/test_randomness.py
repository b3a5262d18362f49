from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.randomness import epoch_order, mix, seed_process, seed_step

parts = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=8), min_size=1, max_size=4)


@given(parts, parts)
def test_different_parts_mix_to_different_numbers(one, other):
    same = [(type(x), x) for x in one] == [(type(x), x) for x in other]
    assert (mix(*one) == mix(*other)) == same
    assert 0 <= mix(*one) < 2**63


def test_parts_do_not_run_into_each_other():
    assert len({mix("ab", "c"), mix("a", "bc"), mix("abc"), mix("c", "ab"), mix(1, "1"), mix("1", 1)}) == 6


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 300))
def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(seed, epoch, examples):
    order = epoch_order(seed, epoch, examples)
    assert sorted(order.tolist()) == list(range(examples))
    assert torch.equal(order, epoch_order(seed, epoch, examples))
    if examples > 20:
        assert not torch.equal(order, epoch_order(seed, epoch + 1, examples))
        assert not torch.equal(order, epoch_order(seed + 1, epoch, examples))


def test_an_order_touches_no_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    epoch_order(0, 0, 50)
    assert torch.equal(before, torch.get_rng_state())


def test_steps_draw_numbers_that_depend_on_the_step_alone():
    def drawn(step: int) -> torch.Tensor:
        seed_step(mix(3, "steps"), step)
        return torch.rand(4)

    first = [drawn(step) for step in range(200)]
    torch.rand(1000)  # whatever was drawn in between
    assert all(torch.equal(drawn(step), first[step]) for step in reversed(range(200)))
    assert len({tuple(values.tolist()) for values in first}) == 200


def test_a_process_repeats_in_every_library():
    def drawn() -> tuple[float, float, float]:
        seed_process(mix(7, "epoch", 3))
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    assert drawn() == drawn()
