"""The compiled pair: right in output and every gradient, at every batch, in every copy; and what is relied on."""

from __future__ import annotations

import copy
import inspect
import shutil
from pathlib import Path

import pytest
import torch

from artifacts import KEYS, SEQUENCE, pair
from esper.kernel import Kernel, eager_kernel, load_kernel
from esper.kernel.backends.pair import BACKWARD, FORWARD, load_half
from esper.kernel.draws import draw
from esper.kernel.errors import TamperedArtifact
from esper.kernel.lowering import Lowering

pytestmark = pytest.mark.needs_compiler


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return load_kernel(pair().path, KEYS).train()


def gradients(kernel: Kernel, batch: int, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and all gradients, by the pair in its precision and by the reference in double."""
    generator = torch.Generator().manual_seed(seed)
    values, u = draw(kernel.ir, kernel.interface, batch, generator)
    tangent = torch.randn(u.shape, generator=generator)
    with torch.no_grad():
        for parameter, value in zip(kernel.parameters(), values, strict=True):
            parameter.copy_(value)
    leaf = u.clone().requires_grad_()
    out = kernel(leaf)
    mine = [out.detach(), *torch.autograd.grad(out, [leaf, *kernel.parameters()], tangent)]
    doubles = [tensor.double().requires_grad_() for tensor in (u, *values)]
    exact = Lowering.of(kernel.ir, kernel.interface)(doubles[0], doubles[1:])
    return mine, [exact.detach(), *torch.autograd.grad(exact, doubles, tangent.double())]


@pytest.mark.parametrize("batch", [2, 3, 16, 33, 100])
def test_output_and_every_gradient_are_right(kernel: Kernel, batch: int) -> None:
    assert kernel.backend == "aoti"
    before = kernel.reference_calls
    for mine, exact in zip(*gradients(kernel, batch, batch), strict=True):
        assert mine.shape == exact.shape
        assert float((mine.double() - exact).norm() / exact.norm()) < 1e-5
    assert kernel.reference_calls == before, "the reference computed this, not the pair"


def test_it_is_what_eager_computes(kernel: Kernel) -> None:
    eager = eager_kernel(kernel.ir, kernel.interface).train()
    mine, _ = gradients(kernel, 9, 5)
    theirs, _ = gradients(eager, 9, 5)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_evaluation_is_the_reference_bit_for_bit(kernel: Kernel) -> None:
    twin = copy.deepcopy(kernel).eval()
    eager = eager_kernel(kernel.ir, kernel.interface).eval()
    eager.load_state_dict(twin.state_dict())
    u = torch.randn(SEQUENCE.shape(6), generator=torch.Generator().manual_seed(1))
    assert torch.equal(twin(u), eager(u))


def test_equal_calls_give_equal_bits(kernel: Kernel) -> None:
    for one, other in zip(gradients(kernel, 7, 3)[0], gradients(kernel, 7, 3)[0], strict=True):
        assert torch.equal(one, other)


def test_a_copy_trains_apart_from_its_original(kernel: Kernel) -> None:
    twin = copy.deepcopy(kernel)
    before = [parameter.detach().clone() for parameter in kernel.parameters()]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    u = torch.randn(SEQUENCE.shape(4), generator=torch.Generator().manual_seed(2))
    twin(u).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, kernel.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


def test_inputs_that_are_not_contiguous_do(kernel: Kernel) -> None:
    u = torch.randn(SEQUENCE.shape(4), generator=torch.Generator().manual_seed(2))
    strided = u.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    assert torch.equal(kernel(strided), kernel(u))
    leaf = strided.requires_grad_()
    (gradient,) = torch.autograd.grad(kernel(leaf).transpose(1, 2).sum(), leaf)  # and so is its gradient
    assert gradient.shape == u.shape


def test_frozen_parameters_get_no_gradient(kernel: Kernel) -> None:
    twin = copy.deepcopy(kernel).requires_grad_(False)
    leaf = torch.randn(SEQUENCE.shape(3)).requires_grad_()
    twin(leaf).sum().backward()
    assert leaf.grad is not None
    assert all(parameter.grad is None for parameter in twin.parameters())


def test_a_second_derivative_is_refused_rather_than_wrong(kernel: Kernel) -> None:
    leaf = torch.randn(SEQUENCE.shape(3)).requires_grad_()
    (first,) = torch.autograd.grad(kernel(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), leaf)


def test_a_half_checks_what_it_is_given(kernel: Kernel, tmp_path: Path) -> None:
    library = tmp_path / "half.so"
    library.write_bytes(pair().blob(FORWARD))
    half = load_half(library)
    parameters, u = draw(kernel.ir, SEQUENCE, 4, torch.Generator().manual_seed(0))
    assert half([*parameters, u])[0].shape == u.shape
    with pytest.raises(RuntimeError):
        half([*parameters, u.double()])
    with pytest.raises(RuntimeError):
        half([*parameters, u[:, :2]])


def test_the_private_interface_is_as_we_know_it() -> None:
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu
    assert "run" in dir(runner)
    assert "List[torch.Tensor]" in (inspect.getdoc(runner.run) or "") or "Tensor" in (inspect.getdoc(runner.run) or "")


def test_an_extracted_library_that_was_changed_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("esper.kernel.backends.pair._halves", {})
    digest = pair().manifest.blobs[BACKWARD].sha256
    planted = tmp_path / "kernels" / f"{digest}.so"
    planted.parent.mkdir(mode=0o700)
    planted.write_bytes(b"malware")
    kernel = load_kernel(pair().path, KEYS).train()
    assert planted.read_bytes() == pair().blob(BACKWARD)
    kernel.warm_up()


def test_a_changed_half_is_not_opened(tmp_path: Path) -> None:
    copied = tmp_path / pair().id
    shutil.copytree(pair().path, copied)
    blob = copied / "blobs" / pair().manifest.blobs[FORWARD].sha256
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(TamperedArtifact):
        load_kernel(copied, KEYS)
