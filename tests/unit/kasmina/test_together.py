"""What banks on several ranks bring together, with ranks that are played by the test."""

from __future__ import annotations

import torch

from esper.kasmina.statistics import Accumulator


def test_sums_taken_apart_are_those_of_one():
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(40, 70, generator=draw, dtype=torch.float64) for _ in range(3)]
    parts[1][:, 3] = 0.0
    whole, apart = Accumulator(70), [Accumulator(70) for _ in parts]
    for part, one in zip(parts, apart, strict=True):
        whole.add(part, 1)
        one.add(part, 1)
    stacked = torch.stack([one.to_tensor() for one in apart])
    for one in apart:
        one.take(stacked)
    assert [one.result() for one in apart] == [whole.result()] * 3


def test_a_rank_that_saw_nothing_adds_nothing():
    rows = torch.randn(16, 5)
    whole, saw, blind = Accumulator(5), Accumulator(5), Accumulator(5)
    whole.add(rows, 1)
    saw.add(rows, 1)
    stacked = torch.stack([blind.to_tensor(), saw.to_tensor()])
    saw.take(stacked)
    blind.take(stacked)
    assert saw.result() == blind.result() == whole.result()
