from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, nn

from esper.errors import TaskError
from esper.tasks import Factory, Task, TensorData, check_task, load_task

VECTOR = "esper.tasks.vector:task"

HEADER = """
from __future__ import annotations
import torch
from torch import nn
from esper.tasks import Task, TensorData

def data(rows):
    return TensorData(torch.randn(rows, 3), torch.zeros(rows))

def loss(outputs, targets):
    return (outputs.squeeze(1) - targets) ** 2
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], tuple[str, list[Path]]]:
    """Writes a module and gives its reference and search path; forgets the module afterwards."""
    name = f"own_{abs(hash(request.node.nodeid))}"

    def write(body: str) -> tuple[str, list[Path]]:
        (tmp_path / f"{name}.py").write_text(HEADER + body)
        request.addfinalizer(lambda: sys.modules.pop(name, None))
        return f"{name}:task", [tmp_path]

    return write


GOOD = """
def task(seed, width: int = 1):
    return Task(nn.Linear(3, width), data(8), data(5), data(2), loss, {"square": loss}, "square", False)
"""


def test_a_task_of_ones_own_is_found_in_the_search_directory(
    own: Callable[[str], tuple[str, list[Path]]],
) -> None:
    ref, search = own(GOOD)
    before = list(sys.path)
    task = load_task(ref, {}, 3, search)
    assert task.factory == Factory(ref, {}, 3)
    assert len(task.report) == 2
    assert sys.path == before


def test_the_current_directory_is_searched_by_default(
    own: Callable[[str], tuple[str, list[Path]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, search = own(GOOD)
    monkeypatch.chdir(search[0])
    assert len(load_task(ref).train) == 8


def test_the_same_seed_gives_the_same_parameters_and_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(5)
    random.seed(5)
    numpy.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    first, again, other = (load_task(VECTOR, {"width": 4}, seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert numpy.random.get_state()[1].tolist() == before[2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    "ref", ["", "vector", "esper.tasks.vector.task", "a b:task", "x:y:z", "../x:task", ":task", "x:"]
)
def test_a_reference_of_the_wrong_form_is_refused(ref: str) -> None:
    with pytest.raises(TaskError, match="module:function"):
        load_task(ref)


@pytest.mark.parametrize(
    ("ref", "params", "said"),
    [
        ("esper.tasks.nowhere:task", {}, "no module 'esper.tasks.nowhere'"),
        ("esper.tasks.vector:tusk", {}, "did you mean 'task'"),
        ("esper.tasks.vector:_DATA_SEED", {}, "not a function"),
        (VECTOR, {"widht": 3}, "did you mean 'width'"),
        (VECTOR, {"width": "3"}, r"params\.width is '3'; it must be of type int"),
        (VECTOR, {"width": True}, "must be of type int"),
        (VECTOR, {"noise": "much"}, "must be of type float"),
        (VECTOR, {"width": 0}, "from 1 to 4096"),
        (VECTOR, {"branches": [1, 2]}, "list of 3"),
        (VECTOR, {"seed": 3}, r"params\.seed is not possible"),
    ],
)
def test_what_is_wrong_is_named(ref: str, params: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        load_task(ref, params)
    assert ref in str(caught.value)


def test_a_whole_number_is_accepted_where_a_float_is_asked_for() -> None:
    assert load_task(VECTOR, {"noise": 0}).metric == "accuracy"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import nothing_like_this\n", "needs 'nothing_like_this', which is not installed"),
        ("1 / 0\n", "raised ZeroDivisionError"),
        ("def task(seed): return 3\n", "returned int; it must return an esper.tasks.Task"),
        ("def task(seed): raise ValueError('no')\n", "raised ValueError: no; it was called with seed=0"),
        ("def task(): return 3\n", "callable as function"),
        ("def task(seed, size): return 3\n", "missing a required argument: 'size'"),
    ],
)
def test_a_task_function_that_fails_is_named(
    own: Callable[[str], tuple[str, list[Path]]], body: str, said: str
) -> None:
    ref, search = own(body)
    with pytest.raises(TaskError, match=said):
        load_task(ref, {}, 0, search)


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


def square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(1) - targets) ** 2


def rows(count: int, width: int = 3) -> TensorData:
    return TensorData(torch.randn(count, width), torch.zeros(count))


@pytest.fixture
def good() -> Task:
    return Task(Scores(), rows(8), rows(5), rows(2), square, {"square": square}, "square", False)


class Empty:
    def __len__(self) -> int:
        return 0

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices, indices


class Lists(Empty):
    def __len__(self) -> int:
        return 4

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return [1.0], [2.0]  # type: ignore[return-value]


class Short(Lists):
    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 3), torch.zeros(1)


def frozen() -> nn.Module:
    return Scores().requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": 3}, "must be a torch.nn.Module"),
        ({"model": frozen()}, "nothing to train"),
        ({"metric": "speed"}, r"'speed' is not one of its metrics \['square'\]"),
        ({"report": [1, 2]}, "report is list"),
        ({"controller": Empty()}, "controller is empty"),
        ({"train": Lists()}, "two tensors"),
        ({"report": Short()}, "both must have 4 rows"),
        ({"report": rows(4, width=7)}, "does not accept report inputs"),
        ({"loss": lambda o, t: square(o, t).mean()}, "average only within an example"),
        ({"loss": lambda o, t: o}, "one float for each of the 4 examples"),
        ({"loss": lambda o, t: square(o, t) / 0.0}, "every value must be finite"),
        ({"loss": lambda o, t: square(o.detach(), t)}, "no gradient"),
        ({"loss": lambda o, t: o @ torch.zeros(9)}, "loss on train: raised RuntimeError"),
        ({"metrics": {"square": lambda o, t: 1.0}}, "metric 'square' on train: gave float"),
        ({"metrics": {"square": lambda o, t: o.squeeze(1) > t}}, "torch.bool"),
    ],
)
def test_parts_that_disagree_are_named(good: Task, change: dict[str, object], said: str) -> None:
    with pytest.raises(TaskError, match=said) as caught:
        check_task(dataclasses.replace(good, **change), "mine")  # type: ignore[arg-type]
    assert "task 'mine'" in str(caught.value)


def test_one_data_set_used_twice_is_refused(good: Task) -> None:
    with pytest.raises(TaskError, match="three different data sets"):
        check_task(dataclasses.replace(good, report=good.train))


def test_the_check_leaves_no_trace_in_the_model(good: Task) -> None:
    good.model.train()
    good.model.get_submodule("norm").eval()
    before = {name: value.clone() for name, value in good.model.state_dict().items()}
    check_task(good)
    assert good.model.training
    assert not good.model.get_submodule("norm").training
    assert all(torch.equal(value, before[name]) for name, value in good.model.state_dict().items())
