"""The kernel as a module: parameters, copies, inputs that do not fit, and which path computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from artifacts import SEQUENCE, VECTOR
from esper.karn.catalogue import CATALOGUE
from esper.kernel import Kernel, eager_kernel
from esper.kernel.errors import KernelInputError
from esper.kernel.initialisers import initialise


class Doubling:
    """A compiled path that can be told from the reference."""

    batch = (2, 4)
    device = "cpu"

    def __call__(self, u: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        return u * 2 + 0 * sum(p.sum() for p in parameters)


@pytest.fixture
def kernel() -> Kernel:
    return eager_kernel(CATALOGUE["bottleneck"].ir, VECTOR)


@pytest.fixture
def compiled(kernel: Kernel) -> Kernel:
    return Kernel(kernel.manifest, Doubling())


def test_parameters_are_named_and_shaped_as_in_the_manifest(kernel: Kernel) -> None:
    named = {spec.name.replace(".", "_"): tuple(spec.shape) for spec in kernel.manifest.parameters}
    assert {name: tuple(p.shape) for name, p in kernel.named_parameters()} == named
    assert all(p.dtype == torch.float32 and p.requires_grad for p in kernel.parameters())


def test_values_at_start_follow_from_the_artifact_alone(kernel: Kernel) -> None:
    before = torch.get_rng_state()
    again = eager_kernel(CATALOGUE["bottleneck"].ir, VECTOR)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(kernel.parameters(), again.parameters(), strict=True))
    other = eager_kernel(CATALOGUE["low_rank"].ir, VECTOR)
    assert not torch.equal(next(iter(kernel.parameters()))[0], next(iter(other.parameters()))[0])


@pytest.mark.parametrize(
    ("shape", "dtype", "word"),
    [
        ((3, 9), torch.float32, r"\(batch, 8\)"),
        ((8,), torch.float32, "shape"),
        ((3, 8, 1), torch.float32, "shape"),
        ((3, 8), torch.float64, "float64"),
        ((3, 8), torch.bfloat16, "bfloat16"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(
    kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, word: str
) -> None:
    with pytest.raises(KernelInputError, match=word):
        kernel(torch.zeros(shape, dtype=dtype))


def test_training_takes_the_compiled_path_and_evaluation_the_reference(compiled: Kernel) -> None:
    u = torch.randn(3, 8)
    assert torch.equal(compiled.train()(u), u * 2)
    assert not compiled.eval()(u).any()
    assert compiled.reference_calls == 0


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_it_was_not_built_for_takes_the_reference_and_is_counted(compiled: Kernel, batch: int) -> None:
    assert not compiled.train()(torch.randn(batch, 8)).any()
    assert compiled.reference_calls == 1


def test_copies_own_their_parameters_and_share_the_rest(compiled: Kernel) -> None:
    twin = copy.deepcopy(compiled)
    for mine, theirs in zip(compiled.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert twin.manifest is compiled.manifest
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(compiled.parameters()))
    u = torch.randn(3, 8)
    assert torch.equal(twin.train()(u), compiled.train()(u))


def test_warming_up_leaves_no_trace(compiled: Kernel) -> None:
    values = [p.detach().clone() for p in compiled.parameters()]
    compiled.eval().warm_up()
    assert not compiled.training
    assert all(p.grad is None for p in compiled.parameters())
    assert all(torch.equal(a, b) for a, b in zip(values, compiled.parameters(), strict=True))


def test_it_can_be_exported_for_any_batch() -> None:
    for name in ("mlp", "gated_mixer"):
        kernel = eager_kernel(CATALOGUE[name].ir, SEQUENCE).eval()
        with torch.no_grad():
            for parameter in kernel.parameters():
                parameter.add_(0.1)
        batch = torch.export.Dim("batch", min=2, max=64)
        program = torch.export.export(kernel, (torch.randn(SEQUENCE.shape(4)),), dynamic_shapes=({0: batch},))
        u = torch.randn(SEQUENCE.shape(7))
        torch.testing.assert_close(program.module()(u), kernel(u), rtol=1e-5, atol=1e-6)


def test_autocast_gives_back_the_inputs_dtype(kernel: Kernel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel(torch.randn(3, 8)).dtype == torch.float32
        assert kernel(torch.randn(3, 8).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(("init", "bound"), [("kaiming_uniform", (6 / 27) ** 0.5), ("xavier_uniform", (6 / 72) ** 0.5)])
def test_uniform_initialisers_fill_their_range(init: str, bound: float) -> None:
    values = torch.empty(15, 9, 3)
    initialise(values, init, torch.Generator().manual_seed(0))
    assert float(values.abs().max()) <= bound
    assert float(values.abs().max()) > 0.95 * bound
    assert abs(float(values.mean())) < 0.1 * bound


def test_an_unknown_initialiser_is_an_error() -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        initialise(torch.empty(2, 2), "orthogonal", torch.Generator())
