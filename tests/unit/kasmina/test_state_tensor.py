"""The seed state: types, clipping, and that a changed byte is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import StateCorruption
from esper.kasmina import StateTensor
from leyline.lifecycle import Stage

ROW = {
    "lifecycle": Stage.GRAFTING, "kernel_id": 2**64 - 3, "alpha": 0.25, "health": 1.5,
    "last_update_epoch": 7, "exec_latency_us": 120.0,
}  # fmt: skip


def test_rows_hold_what_was_written_in_the_stated_types():
    state = StateTensor(3)
    state.write(1, **ROW)
    state.verify()
    assert state.row(1) == {**ROW, "lifecycle": 5, "exec_latency_us": 120}
    assert state.row(0)["lifecycle"] == Stage.DORMANT
    dtypes = {name: array.dtype for name, array in state.arrays.items()}
    assert dtypes == {
        "lifecycle": torch.uint8, "kernel_id": torch.uint64, "alpha": torch.float16, "health": torch.float32,
        "last_update_epoch": torch.uint32, "exec_latency_us": torch.uint16,
    }  # fmt: skip


@given(st.floats(), st.floats(), st.integers(-5, 2**40), st.floats(), st.integers(0, 2**64 - 1), st.sampled_from(Stage))
def test_any_value_fits_its_field(alpha, health, epoch, latency, kernel, stage):
    state = StateTensor(2)
    state.write(
        0,
        lifecycle=stage,
        kernel_id=kernel,
        alpha=alpha,
        health=health,
        last_update_epoch=epoch,
        exec_latency_us=latency,
    )
    state.verify()
    row = state.row(0)
    assert row["kernel_id"] == kernel
    assert math.isfinite(row["alpha"])
    assert math.isfinite(row["health"])


@given(st.integers(0, 83), st.integers(1, 255))
def test_a_changed_byte_is_found(position, change):
    state = StateTensor(4)
    state.write(1, **ROW)
    for array in state.arrays.values():
        raw = array.numpy().view(np.uint8)
        if position < raw.size:
            raw[position] ^= change
            break
        position -= raw.size
    with pytest.raises(StateCorruption, match="roll back"):
        state.verify()
    # a later honest write does not bless it
    state.write(2, **ROW)
    with pytest.raises(StateCorruption):
        state.verify()


def test_a_replaced_array_is_found():
    state = StateTensor(4)
    state.arrays["alpha"] = torch.zeros(4)
    with pytest.raises(StateCorruption, match="'alpha'"):
        state.verify()


def test_loading_checks_the_checksum_and_keeps_the_old_on_failure():
    state, other = StateTensor(2), StateTensor(2)
    other.write(0, **ROW)
    with pytest.raises(StateCorruption):
        state.load(other.arrays, other.crc ^ 1)
    with pytest.raises(StateCorruption):
        state.load({}, 0)
    state.verify()
    assert state.row(0)["lifecycle"] == Stage.DORMANT
    state.load(other.arrays, other.crc)
    assert state.row(0) == other.row(0)
    other.clear(0, 9)
    assert state.row(0)["lifecycle"] == Stage.GRAFTING
