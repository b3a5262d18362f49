"""Activation statistics against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esper.kasmina.statistics import Accumulator


def test_statistics_against_numpy():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(40, 6, 5, generator=generator)  # sequence: features last
    u[..., 1] = 0.25
    u[..., 2] = -2 * u[..., 0]
    found = Accumulator(5)
    found.add(u[:20], 2)
    found.add(u[20:], 2)
    result = found.result()
    rows = u.double().numpy().reshape(-1, 5)
    assert result.count == 240
    assert result.variance == pytest.approx(rows.var(axis=0).mean(), rel=1e-9)
    assert result.rms == pytest.approx(np.sqrt((rows**2).mean()), rel=1e-9)
    assert result.dead_fraction == pytest.approx(1 / 5)
    live = np.corrcoef(rows[:, [0, 2, 3, 4]].T)
    expected = np.abs(live[~np.eye(4, dtype=bool)]).mean()
    assert result.correlation == pytest.approx(expected, rel=1e-6)


def test_feature_dimension_of_images_comes_after_the_batch():
    u = torch.zeros(4, 3, 2, 2)
    u[:, 1] = torch.randn(4, 2, 2)
    found = Accumulator(3)
    found.add(u, 1)
    assert found.result().dead_fraction == pytest.approx(2 / 3)
    assert found.result().correlation == 0.0


def test_statistics_of_nothing_are_zero_and_empty_batches_add_nothing():
    found = Accumulator(3)
    found.add(torch.zeros(0, 3), 1)
    assert found.result().to_dict() == {"variance": 0, "dead_fraction": 0, "correlation": 0, "rms": 0, "count": 0}


def test_wide_slots_sample_their_features():
    found = Accumulator(1000)
    found.add(torch.randn(50, 1000), 1)
    assert found.pair_products.shape == (64, 64)
    assert 0.0 < found.result().correlation < 0.5
