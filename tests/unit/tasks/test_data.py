from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import TaskError
from esper.tasks import Data, TensorData, TokenData
from esper.tasks.data import consecutive


def test_tensor_data_returns_the_rows_asked_for_in_order() -> None:
    data = TensorData(torch.arange(10).view(5, 2), torch.arange(5))
    inputs, targets = data.batch(torch.tensor([4, 0, 4]))
    assert inputs.tolist() == [[8, 9], [0, 1], [8, 9]]
    assert targets.tolist() == [4, 0, 4]
    assert len(data) == 5
    assert isinstance(data, Data)


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (torch.zeros(3, 2), torch.zeros(4), "same number of rows"),
        (torch.zeros(()), torch.zeros(1), "same number of rows"),
        (torch.zeros(0, 2), torch.zeros(0), "at least one row"),
    ],
)
def test_tensor_data_refuses_parts_that_do_not_fit(inputs: torch.Tensor, targets: torch.Tensor, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        TensorData(inputs, targets)


def test_consecutive_splits_are_disjoint_and_cover_their_sizes() -> None:
    rows = torch.arange(10)
    parts = consecutive(rows, rows, (3, 5, 2))
    assert [part.inputs.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6, 7], [8, 9]]


@given(length=st.integers(2, 200), context=st.integers(1, 40), stride=st.integers(1, 40))
def test_token_windows_stay_inside_and_targets_are_the_next_tokens(length: int, context: int, stride: int) -> None:
    if length < context + 1:
        with pytest.raises(TaskError, match="too few"):
            TokenData(torch.arange(length), context, stride)
        return
    data = TokenData(torch.arange(length), context, stride)
    inputs, targets = data.batch(torch.arange(len(data)))
    assert inputs.shape == targets.shape == (len(data), context)
    assert torch.equal(targets, inputs + 1)
    assert inputs[:, 0].tolist() == [index * stride for index in range(len(data))]
    assert int(targets.max()) <= length - 1
    # One more window would not fit.
    assert len(data) * stride + context > length - 1


def test_token_data_by_default_uses_each_token_once_as_a_target() -> None:
    data = TokenData(torch.arange(101), 10)
    _, targets = data.batch(torch.arange(len(data)))
    assert sorted(targets.flatten().tolist()) == list(range(1, 101))


@pytest.mark.parametrize("index", [-1, 10])
def test_token_data_refuses_windows_that_do_not_exist(index: int) -> None:
    data = TokenData(torch.arange(101), 10)
    with pytest.raises(IndexError, match=r"0\.\.9"):
        data.batch(torch.tensor([index]))


@pytest.mark.parametrize(
    ("tokens", "context", "stride", "said"),
    [
        (torch.zeros(4, 4, dtype=torch.int64), 2, None, "int64 vector"),
        (torch.zeros(10), 2, None, "int64 vector"),
        (torch.zeros(10, dtype=torch.int64), 0, None, "at least 1"),
        (torch.zeros(10, dtype=torch.int64), 2, 0, "at least 1"),
    ],
)
def test_token_data_refuses_bad_arguments(tokens: torch.Tensor, context: int, stride: int | None, said: str) -> None:
    with pytest.raises(TaskError, match=said):
        TokenData(tokens, context, stride)
