"""A kernel that fails at run time: the step goes on with the identity, the seed is culled, the run lives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esper.kasmina import Command, SeedSettings, wrap
from esper.kasmina.guard import GuardedKernel, KernelFault
from esper.kasmina.trying import trying
from esper.kernel import eager_kernel
from leyline.interface import Interface, Layout
from leyline.lifecycle import Stage
from leyline.resources.enums import Blend, Objective


class BackwardRaises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("compiled backward failed")


def raising(u):
    raise ValueError("device assert")


BREAK_FORWARD = {
    "raises": lambda original: raising,
    "wrong shape": lambda original: lambda u: original(u)[:, :-1],
    "wrong dtype": lambda original: lambda u: original(u).double(),
    "no tensor": lambda original: lambda u: (original(u),),
}


@pytest.fixture
def start(host, batch, shelf, run_of, blueprints):
    def build(stage, *, blend=Blend.RESIDUAL, ir=None, **settings):
        inputs, targets = batch
        bank = wrap(host, ["act1", "act2"], inputs, settings=SeedSettings(**settings), source=shelf)
        artifact = shelf.add(ir or blueprints["mlp"]("default"), bank.slots["act1"].interface)
        applied = bank.order(Command.germinate("act1", artifact, blend=blend))
        run = run_of(host, bank, inputs, targets)
        run.bring_to(applied.seed, stage)
        bank.drain_events()
        return run, bank.seeds[applied.seed]

    return build


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", BREAK_FORWARD)
@pytest.mark.parametrize("stage", [Stage.GRAFTING, Stage.STABILIZATION, Stage.EVALUATING, Stage.FINE_TUNING])
def test_a_forward_failure_makes_the_same_step_one_without_the_seed(start, kind, stage):
    run, seed = start(stage)
    reports = []
    run.bank.reports.append(reports.append)
    run.sync()
    plain = copy.deepcopy(_unhooked(run))
    run.train_step()
    run.model.load_state_dict(plain.state_dict())
    seed.kernel.forward = BREAK_FORWARD[kind](seed.kernel.forward)
    run.bank.begin_step(run.step)
    run.optimizer.zero_grad()
    loss = run.loss()
    loss.backward()
    expected = nn.functional.mse_loss(plain(run.inputs), run.targets)
    expected.backward()
    assert torch.equal(loss, expected)
    for name, gradient in gradients(plain).items():
        assert torch.equal(run.model.get_parameter(name).grad, gradient)
    assert seed.stage is Stage.ERROR_RECOVERY
    events = run.bank.drain_events()
    assert [event.target for event in events] == [Stage.ERROR_RECOVERY]
    assert seed.artifact_id in run.bank.loader.cache.banned
    assert run.bank.grafted_parameters() == {}
    # later steps go on without a hook, the boundary culls
    run.train_step()
    assert [report.phase for report in reports] == ["run"]
    assert reports[0].artifact_id == seed.artifact_id
    assert not any(module._forward_hooks for module in run.model.modules())
    run.bank.boundary(run.epoch + 1)
    assert seed.stage is Stage.CULLED
    assert run.bank.state.row(0)["lifecycle"] == Stage.CULLED
    run.leave(seed.id)
    assert run.bank.cull_into_dormant(seed.id, run.bank.host_tensors(), run.optimizer).passed
    applied = run.bank.order(Command.germinate("act1", seed.artifact_id))
    assert applied.error == "Evicted"


def _unhooked(run):
    run.bank.remove_hooks()
    try:
        return copy.deepcopy(run.model)
    finally:
        run.bank.sync_hooks()


@pytest.mark.parametrize("blend", Blend)
def test_a_backward_failure_passes_the_gradient_through(start, blend):
    run, seed = start(Stage.FINE_TUNING, blend=blend)
    run.sync()
    original = seed.kernel.forward
    seed.kernel.forward = lambda u: BackwardRaises.apply(original(u))
    received = []

    def keep(module, args, output):
        output.register_hook(lambda gradient: received.append(gradient.clone()))

    before = run.model.act1.register_forward_hook(keep, prepend=True)
    after = run.model.act1.register_forward_hook(keep)
    run.bank.begin_step(run.step)
    run.optimizer.zero_grad()
    run.loss().backward()
    before.remove()
    after.remove()
    # gradient arriving after the seed equals the one handed on before it
    assert len(received) == 2
    assert torch.equal(received[0], received[1])
    assert all(p.grad is None for p in seed.kernel.parameters())
    assert all(p.grad is not None for p in run.model.parameters())
    assert seed.stage is Stage.ERROR_RECOVERY
    assert "compiled backward failed" in seed.fault
    run.optimizer.step()
    run.train_step()
    run.bank.boundary(run.epoch + 1)
    assert seed.stage is Stage.CULLED


@pytest.mark.parametrize("objective", [Objective.RECONSTRUCTION, Objective.SHADOW, Objective.TASK])
@pytest.mark.parametrize("backward", [False, True])
def test_a_failure_in_isolation_leaves_no_trace_in_the_host(start, objective, backward):
    run, seed = start(Stage.TRAINING, objective=objective)
    plain = copy.deepcopy(run.model)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    original = seed.kernel.forward
    seed.kernel.forward = (lambda u: BackwardRaises.apply(original(u))) if backward else raising
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-2)
    for _ in range(4):
        run.train_step()
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(run.inputs), run.targets).backward()
        optimizer.step()
    assert seed.stage is Stage.ERROR_RECOVERY
    for mine, other in zip(run.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_an_error_of_the_host_is_not_blamed_on_the_seed(start):
    run, seed = start(Stage.TRAINING, objective=Objective.SHADOW)
    run.bank.begin_step(0)

    def broken() -> torch.Tensor:
        raise KeyError("the task's own mistake")

    with pytest.raises(KeyError):
        run.bank.isolated_step(broken)
    assert seed.stage is Stage.TRAINING
    assert run.bank.shadowing is None


def test_a_fossil_falls_back_to_the_reference_path_and_only_then_to_the_identity(start):
    run, seed = start(Stage.FOSSILIZED)
    run.train_epoch()
    reference = seed.kernel.forward
    run.model.eval()
    with torch.no_grad():
        expected = run.model(run.inputs)
    run.model.train()

    def compiled(u):
        if seed.kernel.training:
            raise RuntimeError("segment lost")
        return reference(u)

    seed.kernel.forward = compiled
    assert torch.equal(run.model(run.inputs), expected)
    assert seed.stage is Stage.FOSSILIZED
    assert seed.reference_only
    assert run.train_step() > 0
    assert seed.faults == 1
    seed.kernel.forward = raising
    run.bank.remove_hooks()
    identity = run.model(run.inputs)
    run.bank.sync_hooks()
    assert torch.equal(run.model(run.inputs), identity)
    assert seed.stage is Stage.FOSSILIZED
    assert seed.faults == 2
    assert run.bank.deploy_plan() == [], "a saved model computes what was trained"
    # It stays the identity when the state is taken up again, whatever the kernel would do by then.
    run.bank.import_state(*run.bank.export_state(), run.bank.source)
    (again,) = run.bank.seeds.values()
    assert again.stage is Stage.FOSSILIZED
    assert torch.equal(run.model(run.inputs), identity)
    assert again.faults == 2


def test_a_host_that_changes_its_shape_does_not_cost_the_kernel_its_place(batch, shelf, blueprints):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU())
    bank = wrap(model, "1", torch.randn(4, 5, 3), source=shelf)
    artifact = shelf.add(blueprints["mlp"](), bank.slots["1"].interface)
    bank.order(Command.germinate("1", artifact))
    bank.boundary(1)
    bank.boundary(2)
    bank.order(Command.advance("1/0"))
    assert model(torch.randn(4, 7, 3)).shape == (4, 7, 6)
    assert bank.seeds["1/0"].stage is Stage.ERROR_RECOVERY
    assert "the host's output became (4, 7, 6)" in bank.seeds["1/0"].fault
    assert artifact not in bank.loader.cache.banned
    with bank.observing():
        model(torch.randn(4, 7, 3))
    assert bank.statistics()["1"].count == 28


# -- the guard by itself ---------------------------------------------------------------------------------------------


def guarded(ir, shape=(2, 8), blend=Blend.RESIDUAL):
    kernel = eager_kernel(ir, Interface.of_shape(Layout.VECTOR, shape))
    failures = []
    return kernel, GuardedKernel(kernel, blend, failures.append), failures


def test_the_guard_changes_neither_value_nor_gradient(blueprints):
    kernel, guard, failures = guarded(blueprints["mlp"]("default"))
    u = torch.randn(5, 8, requires_grad=True)
    (guard(u) * torch.arange(8.0)).sum().backward()
    found = [u.grad.clone(), *(p.grad.clone() for p in kernel.parameters())]
    u.grad = None
    kernel.zero_grad()
    expected_output = kernel(u)
    assert torch.equal(guard(u), expected_output)
    (expected_output * torch.arange(8.0)).sum().backward()
    for mine, other in zip(found, [u.grad, *(p.grad for p in kernel.parameters())], strict=True):
        assert torch.equal(mine, other)
    assert not failures


def test_the_guard_keeps_its_graph_as_long_as_the_outer_one(blueprints):
    kernel, guard, _ = guarded(blueprints["mlp"]("default"))
    u = torch.randn(5, 8, requires_grad=True)
    loss = guard(u).square().sum()
    first = torch.autograd.grad(loss, u, retain_graph=True)[0]
    second = torch.autograd.grad(loss, u)[0]
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, u)
    assert all(p.grad is None for p in kernel.parameters())


def test_frozen_parameters_get_no_gradient_and_still_pass_it_on(blueprints):
    kernel, guard, _ = guarded(blueprints["mlp"]("default"))
    kernel.requires_grad_(False)
    u = torch.randn(5, 8, requires_grad=True)
    guard(u).sum().backward()
    assert u.grad is not None
    assert all(p.grad is None for p in kernel.parameters())
    assert not guard(u.detach()).requires_grad


def test_an_input_without_gradient_still_trains_the_parameters(blueprints):
    kernel, guard, _ = guarded(blueprints["mlp"]("default"))
    guard(torch.randn(5, 8)).sum().backward()
    assert all(p.grad is not None for p in kernel.parameters())


def test_empty_batches_and_strided_inputs_are_fine(blueprints):
    kernel, guard, _ = guarded(blueprints["mlp"]("default"))
    assert guard(torch.randn(0, 8)).shape == (0, 8)
    u = torch.randn(8, 5).T
    assert torch.equal(guard(u), kernel(u.contiguous()))


def test_a_branch_that_is_its_input_is_not_tied_to_it():
    class Same(nn.Module):
        def forward(self, u):
            return u

    guard = GuardedKernel(Same(), Blend.CONVEX, lambda error: None)
    u = torch.randn(3, 4)
    with torch.no_grad():
        guard(u).zero_()
    assert bool((u != 0).all())


def test_keyboard_interrupts_are_not_swallowed():
    class Interrupted(nn.Module):
        def forward(self, u):
            raise KeyboardInterrupt

    guard = GuardedKernel(Interrupted(), Blend.RESIDUAL, lambda error: None)
    with pytest.raises(KeyboardInterrupt):
        guard(torch.randn(3, 4))


def test_what_a_kernel_may_not_return_is_named(blueprints):
    kernel, guard, _ = guarded(blueprints["mlp"]())
    kernel.forward = lambda u: u.sum()
    with pytest.raises(KernelFault, match=r"returned \(\) torch.float32 on cpu, expected \(2, 8\)"):
        guard(torch.randn(2, 8))


# -- trying a kernel -------------------------------------------------------------------------------------------------


def test_a_kernel_can_be_tried_in_a_slot_and_leaves_no_trace(start, blueprints):
    run, seed = start(Stage.TRAINING)
    kernel = eager_kernel(blueprints["mlp"]("default"), run.bank.slots["act2"].interface)
    with torch.no_grad():
        before = run.model(run.inputs)
    meta = run.bank.export_state()[1]
    with trying(run.bank, "act2", kernel):
        output = run.model(run.inputs)
        output.sum().backward()
    assert not torch.equal(output, before)
    assert all(p.grad is not None for p in kernel.parameters())
    assert torch.equal(run.model(run.inputs), before)
    assert run.bank.export_state()[1] == meta
    assert run.bank.drain_events() == []
    assert seed.stage is Stage.TRAINING


def test_a_tried_kernel_that_fails_is_evicted_and_the_identity(start, blueprints):
    run, _ = start(Stage.TRAINING)
    reports = []
    run.bank.reports.append(reports.append)
    kernel = eager_kernel(blueprints["mlp"]("default"), run.bank.slots["act2"].interface)
    kernel.forward = raising
    with torch.no_grad():
        before = run.model(run.inputs)
        with trying(run.bank, "act2", kernel):
            assert torch.equal(run.model(run.inputs), before)
            assert torch.equal(run.model(run.inputs), before)
    assert [report.artifact_id for report in reports] == [kernel.manifest.id]
    assert kernel.manifest.id in run.bank.loader.cache.banned
