from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.tolaria.optimizer import HOST, GrowingOptimizer
from leyline.resources import OptimizerSpec

SPECS = [
    OptimizerSpec(name="AdamW", learning_rate=0.01, weight_decay=0.1),
    OptimizerSpec(name="Adam", learning_rate=0.01),
    OptimizerSpec(name="SGD", learning_rate=0.1, momentum=0.9),
]


def host() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def steps(optimizer: GrowingOptimizer, parameters, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        for number, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(100 * index + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.inner.step()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.name))
def test_a_group_that_came_and_went_leaves_no_bit_of_the_host_changed(spec):
    alone, visited = host(), host()
    plain = GrowingOptimizer(spec, alone.named_parameters())
    steps(plain, list(alone.parameters()), 9)

    optimizer = GrowingOptimizer(spec, visited.named_parameters())
    steps(optimizer, list(visited.parameters()), 3)
    guest = nn.Linear(4, 4)
    optimizer.join("seed:blocks.0/0", guest.named_parameters(), 1.0)
    assert optimizer.groups == (HOST, "seed:blocks.0/0")
    steps(optimizer, [*visited.parameters(), *guest.parameters()], 3, first=3)
    optimizer.leave("seed:blocks.0/0")
    assert optimizer.parameter_names() == {"weight", "bias"}
    steps(optimizer, list(visited.parameters()), 3, first=6)

    for mine, theirs in zip(visited.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    mine_state, theirs_state = optimizer.export_state()[0], plain.export_state()[0]
    assert mine_state.keys() == theirs_state.keys()
    assert all(torch.equal(mine_state[key], theirs_state[key]) for key in mine_state)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.name))
def test_imported_state_goes_on_with_the_same_bits(spec):
    model, guest = host(), nn.Linear(2, 2)
    optimizer = GrowingOptimizer(spec, model.named_parameters())
    optimizer.join("seed:a", guest.named_parameters(), 0.5)
    optimizer.set_multiplier(1.0)
    both = [*model.parameters(), *guest.parameters()]
    steps(optimizer, both, 4)
    tensors, meta = optimizer.export_state()
    values = [parameter.detach().clone() for parameter in both]
    steps(optimizer, both, 3, first=4)

    other_model, other_guest = host(), nn.Linear(2, 2)
    others = [*other_model.parameters(), *other_guest.parameters()]
    with torch.no_grad():
        for parameter, value in zip(others, values, strict=True):
            parameter.copy_(value)
    restored = GrowingOptimizer(spec, other_model.named_parameters())
    restored.import_state(tensors, meta, {"seed:a": other_guest.named_parameters()})
    restored.set_multiplier(1.0)
    steps(restored, others, 3, first=4)
    for one, other in zip(both, others, strict=True):
        assert torch.equal(one, other)


def test_rates_follow_the_schedule_and_the_groups_scale():
    model, guest = host(), nn.Linear(2, 2)
    optimizer = GrowingOptimizer(SPECS[0], model.named_parameters())
    optimizer.join("seed:a", guest.named_parameters(), 0.3)
    optimizer.set_multiplier(0.5)
    rates = [group["lr"] for group in optimizer.inner.param_groups]
    assert rates == pytest.approx([0.01 * 0.5, 0.01 * 0.3 * 0.5])


def test_groups_are_known_by_name():
    optimizer = GrowingOptimizer(SPECS[0], host().named_parameters())
    optimizer.join("seed:a", nn.Linear(2, 2).named_parameters(), 1.0)
    with pytest.raises(ValueError, match="already"):
        optimizer.join("seed:a", nn.Linear(2, 2).named_parameters(), 1.0)
    with pytest.raises(KeyError, match="seed:b"):
        optimizer.leave("seed:b")
    with pytest.raises(KeyError, match="host"):
        optimizer.leave(HOST)
