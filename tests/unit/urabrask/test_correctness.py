"""A kernel that is wrong in one place is caught, and the place is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from artifacts import SEQUENCE, VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel import Kernel, eager_kernel
from esper.kernel.lowering import Lowering
from esper.urabrask.correctness import check
from esper.urabrask.measuring import examine
from esper.urabrask.memory import peak_bytes
from esper.urabrask.power import PowerMeter

Spoil = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]


class Wrong:
    """A compiled path that spoils the output or the gradients of the right one."""

    batch = (1, 4096)
    device = "cpu"

    def __init__(self, kernel: Kernel, output: Callable[[Tensor], Tensor], place: int, gradient: float) -> None:
        self.lowering = Lowering.of(kernel.ir, kernel.interface)
        self.output, self.place, self.gradient = output, place, gradient

    def __call__(self, u: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        leaves = [u, *parameters]
        if self.place >= 0:
            leaves[self.place] = _Scaled.apply(leaves[self.place], self.gradient)
        return self.output(self.lowering(leaves[0], leaves[1:]))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


def wrong(output: Callable[[Tensor], Tensor] = lambda x: x, place: int = -1, gradient: float = 1.0) -> Kernel:
    right = eager_kernel(CATALOGUE["bottleneck"].ir, VECTOR)
    return Kernel(right.manifest, Wrong(right, output, place, gradient)).train()


@pytest.mark.parametrize(("name", "interface"), [("bottleneck", VECTOR), ("attention", SEQUENCE), ("mlp", SEQUENCE)])
def test_a_right_kernel_passes_and_keeps_its_parameters(name, interface) -> None:
    kernel = eager_kernel(CATALOGUE[name].ir, interface).train()
    before = [p.detach().clone() for p in kernel.parameters()]
    found = check(kernel)
    assert found.problems == []
    assert found.draws == 4
    assert found.output_error < found.tolerance
    assert found.gradient_error < found.tolerance
    assert found.zero_at_start
    assert all(torch.equal(a, b) for a, b in zip(before, kernel.parameters(), strict=True))


def test_a_wrong_output_is_caught() -> None:
    found = check(wrong(output=lambda x: x * 1.001))
    assert any("output" in problem for problem in found.problems)
    assert found.output_error == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("place", range(5))
def test_each_wrong_gradient_is_caught_and_named(place: int) -> None:
    kernel = wrong(place=place, gradient=1.01)
    names = ["gradient of u", *(f"gradient of {spec.name}" for spec in kernel.manifest.parameters)]
    problems = check(kernel).problems
    assert problems
    assert all(names[place] in problem for problem in problems)


def test_not_a_number_is_caught() -> None:
    problems = check(wrong(output=lambda x: x * float("nan"))).problems
    assert any("output" in problem for problem in problems)


def test_a_kernel_that_changes_its_mind_is_caught() -> None:
    generator = torch.Generator().manual_seed(0)
    problems = check(wrong(output=lambda x: x * (1 + 1e-6 * torch.rand(1, generator=generator)))).problems
    assert any("differs between two equal calls" in problem for problem in problems)


def test_a_kernel_wrong_at_one_batch_size_only_is_caught() -> None:
    problems = check(wrong(output=lambda x: x * 2 if x.shape[0] == 17 else x)).problems
    assert problems
    assert all("batch 17" in problem for problem in problems)


def test_a_branch_that_does_not_start_at_zero_is_told() -> None:
    assert not check(wrong(output=lambda x: x + 1)).zero_at_start


def test_what_outgrows_its_input_is_told() -> None:
    assert check(eager_kernel(CATALOGUE["low_rank"].ir, VECTOR).train()).growth == pytest.approx(10)
    assert check(eager_kernel(CATALOGUE["mlp"].ir, VECTOR).train()).growth < 2


def test_a_wrong_kernel_is_not_timed() -> None:
    answer = examine(wrong(output=lambda x: x + 1), None, 8, 1.0)
    assert set(answer) == {"correctness"}
    assert answer["correctness"]["problems"]


def test_a_right_one_is_timed_against_its_baseline() -> None:
    kernel = eager_kernel(CATALOGUE["bottleneck"].ir, VECTOR)
    slow = wrong(output=lambda x: _heavy(x))
    answer = examine(slow, kernel, 8, 1.0)
    assert answer["correctness"] == asdict(check(slow))
    assert answer["ratio"] > 2
    assert answer["ratio_low"] <= answer["ratio"] <= answer["ratio_high"]
    assert answer["latency_ms_mean"] > 0
    assert answer["memory_bytes_peak"] > 0


def _heavy(x: Tensor) -> Tensor:
    ballast = torch.ones(300, 300)
    for _ in range(5):
        ballast = ballast @ ballast * 1e-3
    return x + 0 * ballast[0, 0].detach()


def test_the_highest_sum_of_live_bytes_is_found() -> None:
    def step() -> Tensor:
        first = torch.zeros(1000, 1000)
        second = torch.zeros(500, 1000)
        del first
        third = torch.zeros(100)
        return second + third[0]

    assert peak_bytes(step) == 6_000_000
    assert peak_bytes(lambda: None) == 0


def test_power_is_read_or_not_known(tmp_path) -> None:
    assert PowerMeter(tmp_path / "nothing").watts() is None
    counter = tmp_path / "energy_uj"
    counter.write_text("1000000")
    meter = PowerMeter(counter)
    counter.write_text("3000000")
    watts = meter.watts()
    assert watts is not None
    assert watts > 0
    counter.write_text("5")  # it wrapped around
    assert meter.watts() is None
