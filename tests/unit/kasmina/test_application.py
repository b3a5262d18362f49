"""How seeds act on a slot: in order, on every call of a shared module, on their own chunk of features."""

from __future__ import annotations

import math

import pytest
import torch

from esper.kasmina import Command, wrap
from leyline.lifecycle import Stage


def test_seeds_of_one_slot_apply_in_order(start, blueprints, shelf):
    run, seed = start(blueprints["squash"](), max_per_slot=2, max_active=2)
    second = run.bank.order(
        Command.germinate("act1", shelf.add(blueprints["mlp"]("default"), run.bank.slots["act1"].interface))
    ).seed
    for name in (seed, second):
        run.bring_to(name, Stage.STABILIZATION)
    run.model.eval()
    with torch.no_grad():
        u = torch.relu(run.model.first(run.inputs))
        u = u + run.bank.seeds[seed].kernel(u)
        u = u + run.bank.seeds[second].kernel.eval()(u)
        assert torch.equal(run.model(run.inputs), run.model.head(torch.relu(run.model.second(u))))
    plan = run.bank.deploy_plan()
    assert [kernel.seed for kernel in plan[0].kernels] == [seed, second]
    assert [kernel.alpha for kernel in plan[0].kernels] == [1.0, 1.0]


class Shared(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.mix(torch.relu(self.mix(x))))


def test_a_module_called_twice_carries_its_seed_on_each_call(batch, shelf, blueprints, run_of):
    inputs, targets = batch
    model = Shared()
    bank = wrap(model, "mix", inputs, source=shelf)
    assert bank.slots["mix"].calls == 2
    bank.order(Command.germinate("mix", shelf.add(blueprints["squash"](), bank.slots["mix"].interface)))
    run = run_of(model, bank, inputs, targets)
    run.bring_to("mix/0", Stage.STABILIZATION)
    with torch.no_grad():
        mix = lambda x: torch.nn.functional.linear(x, model.mix.weight, model.mix.bias)  # noqa: E731
        u = mix(inputs)
        u = mix(torch.relu(u + torch.tanh(u)))
        assert torch.equal(model(inputs), model.head(u + torch.tanh(u)))


def test_a_chunk_is_changed_and_the_rest_is_not(host, batch, shelf, blueprints, run_of):
    from esper.kasmina import SlotSpec

    inputs, targets = batch
    bank = wrap(host, [SlotSpec("act1", chunks=4)], inputs, source=shelf)
    artifact = shelf.add(blueprints["squash"](), bank.slots["act1#2"].interface)
    bank.order(Command.germinate("act1#2", artifact))
    run = run_of(host, bank, inputs, targets)
    run.bring_to("act1#2/0", Stage.STABILIZATION)
    seen = []
    handle = host.act1.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        host(inputs)
        u = torch.relu(host.first(inputs))
    handle.remove()
    expected = u.clone()
    expected[:, 8:12] += torch.tanh(u[:, 8:12])
    assert torch.equal(seen[0], expected)
    assert bank.deploy_plan()[0].chunk == 2


def test_statistics_are_taken_while_observing_only(start, blueprints):
    run, _ = start(blueprints["mlp"]())
    assert run.bank.statistics() == {}
    with run.bank.observing(), torch.no_grad():
        run.model(run.inputs)
    first = run.bank.statistics()
    with torch.no_grad():
        run.model(run.inputs * 3)
    assert run.bank.statistics() == first
    assert first["act1"].count == 32
    with run.bank.observing(), torch.no_grad():
        run.model(run.inputs)
    assert run.bank.statistics() == first
    u = torch.relu(run.model.first(run.inputs)).detach()
    assert first["act1"].rms == pytest.approx(float(u.square().mean().sqrt()))
    assert all(math.isfinite(value) for value in first["act2"].to_dict().values())
