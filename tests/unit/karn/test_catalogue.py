"""The catalogue: different designs, zero before training, right on every layout they claim."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from artifacts import SMALL
from esper.errors import BadInput
from esper.karn.catalogue import CATALOGUE, entry, fitting
from esper.kernel import eager_kernel
from leyline.interface import Interface, Layout

CASES = [(name, layout) for name, item in CATALOGUE.items() for layout in item.layouts]


def test_there_are_many_and_no_two_are_the_same() -> None:
    assert len(CATALOGUE) >= 12
    digests = {item.ir.digest() for item in CATALOGUE.values()}
    assert len(digests) == len(CATALOGUE)


def test_they_differ_in_their_operators_not_in_sizes_only() -> None:
    for layout in Layout:
        here = [item for item in CATALOGUE.values() if layout in item.layouts]
        for one, two in itertools.combinations(here, 2):
            parts = [
                Counter(
                    (step.op, step.params.get("fn"), step.params.get("kernel"), str(step.params.get("groups")))
                    if step.op.startswith("conv")
                    else (step.op, step.params.get("fn"))
                    for step in item.ir.steps(SMALL[layout])
                )
                for item in (one, two)
            ]
            assert parts[0] != parts[1], f"{one.name} and {two.name} have the same operators"


def test_every_layout_has_a_choice() -> None:
    for layout in Layout:
        assert len([name for name, where in CASES if where is layout]) >= 6


def test_names_summaries_and_risks_are_sound() -> None:
    for name, item in CATALOGUE.items():
        assert item.name == name
        assert item.summary
        assert 0 < item.risk <= 0.5
        assert item.ir.zero_initialised
        assert item.ir.trainable
        if Layout.SEQUENCE in item.layouts:
            assert item.ir.causal


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_blueprint(name: str, layout: Layout) -> None:
    interface = SMALL[layout]
    ir = CATALOGUE[name].ir
    torch.manual_seed(5)
    before = torch.get_rng_state()
    kernel = eager_kernel(ir, interface).train()
    other = eager_kernel(ir, interface)
    kernel.reset_parameters(torch.Generator().manual_seed(11))
    other.reset_parameters(torch.Generator().manual_seed(11))
    assert torch.equal(torch.get_rng_state(), before), "the global random state was touched"
    for mine, theirs in zip(kernel.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    u = torch.randn(interface.shape(3), generator=torch.Generator().manual_seed(0), requires_grad=True)
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        kernel(u)
    out = kernel(u)
    assert out.shape == u.shape
    assert bool((out == 0).all()), "the branch must be exactly zero before it is trained"
    assert counter.get_total_flops() == 3 * ir.flops(interface)
    assert sum(p.numel() for p in kernel.parameters()) == ir.parameter_count(interface)
    # What starts at zero must be able to leave it.
    tangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, list(kernel.parameters()), tangent, allow_unused=True)
    assert any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in kernel.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    moved = kernel(u)
    assert bool((moved != 0).any())
    gradients = torch.autograd.grad(moved, [u, *kernel.parameters()], tangent)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_fitting_leaves_out_what_does_not_fit() -> None:
    odd = Interface(Layout.IMAGE1D, 8, (5,))
    names = {item.name for item in fitting(odd)}
    assert "conv_block" in names
    assert "pooled_context" not in names  # five positions have no half
    assert "attention" not in names
    assert all(item.fits(odd) for item in fitting(odd))


def test_an_unknown_name_suggests_the_nearest() -> None:
    assert entry("mlp").name == "mlp"
    with pytest.raises(BadInput, match="conv_block"):
        entry("conv_blok")
