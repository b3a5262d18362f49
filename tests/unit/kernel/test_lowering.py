"""Every operator in every layout it claims: shape, gradient, work, and the same meaning in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from artifacts import SMALL
from esper.kernel.draws import draw
from esper.kernel.lowering import Lowering
from leyline.blueprint import BlueprintIR, node
from leyline.errors import BlueprintError
from leyline.interface import Interface, Layout
from leyline.operators import OPERATORS

#: What each operator is tried with; the first design that fits a layout is taken, ``x`` is a linear map of the input.
DESIGNS = {
    "input": [({}, ())],
    "linear": [({"out": "2w"}, ("x",)), ({"out": 3, "bias": False}, ("x",))],
    "conv1d": [
        ({"out": "w", "kernel": 3}, ("x",)),
        ({"out": "2w", "kernel": 5, "dilation": 2, "groups": 4, "bias": False}, ("x",)),
        ({"out": "w", "kernel": 3, "groups": "depthwise"}, ("x",)),
    ],
    "conv2d": [
        ({"out": "w", "kernel": 3}, ("x",)),
        ({"out": "2w", "kernel": 5, "dilation": 2, "groups": 4, "bias": False}, ("x",)),
        ({"out": "w", "kernel": 3, "groups": "depthwise"}, ("x",)),
    ],
    "causal_conv": [({"kernel": 3}, ("x",)), ({"kernel": 2, "dilation": 3, "bias": False}, ("x",))],
    "token_shift": [({"steps": 2}, ("x",))],
    "attention": [
        ({"heads": 2, "head_dim": "w/4", "causal": True}, ("x",)),
        ({"heads": 1, "head_dim": 3, "causal": False}, ("x",)),
    ],
    "layer_norm": [({}, ("x",))],
    "rms_norm": [({}, ("x",))],
    "group_norm": [({"groups": 1}, ("x",)), ({"groups": 2}, ("x",))],
    "act": [({"fn": fn}, ("x",)) for fn in ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")],
    "glu": [({"fn": "silu"}, ("x",))],
    "add": [({}, ("x", "u"))],
    "mul": [({}, ("x", "u"))],
    "concat": [({}, ("x", "u"))],
    "scale": [({"log2": -3}, ("x",))],
    "channel_scale": [({}, ("x",))],
    "avg_pool": [({"factor": 2}, ("x",))],
    "upsample": [({"factor": 2}, ("x",))],
    "global_pool": [({}, ("x",))],
    "broadcast": [({}, ("pooled", "u"))],
}


def _cases() -> list[tuple[str, Layout, int]]:
    return [
        (op, layout, number)
        for op, operator in OPERATORS.items()
        for layout in operator.layouts
        for number in range(len(DESIGNS[op]))
    ]


def blueprint(op: str, layout: Layout, number: int) -> BlueprintIR:
    """The operator behind a linear map, its output brought back to the input's shape."""
    params, inputs = DESIGNS[op][number]
    nodes = {"u": node("input"), "x": node("linear", "u", out="w")}
    if op == "input":
        return BlueprintIR(nodes, "x", (layout,))
    if "pooled" in inputs:
        nodes["pooled"] = node("global_pool", "x")
    nodes["it"] = node(op, *inputs, **params)
    last = "it"
    if op == "avg_pool":
        nodes["back"] = node("upsample", last, factor=2)
        last = "back"
    elif op == "upsample":
        nodes["back"] = node("avg_pool", last, factor=2)
        last = "back"
    elif op == "global_pool":
        nodes["back"] = node("broadcast", last, "u")
        last = "back"
    nodes["out"] = node("linear", last, out="w")
    return BlueprintIR(nodes, "out", (layout,))


def test_every_operator_is_tried() -> None:
    assert set(DESIGNS) == set(OPERATORS)


@pytest.mark.parametrize(("op", "layout", "number"), _cases())
def test_an_operator(op: str, layout: Layout, number: int) -> None:
    interface = SMALL[layout]
    ir = blueprint(op, layout, number)
    ir.check(interface)
    lowering = Lowering.of(ir, interface)
    parameters, u = draw(ir, interface, 3, torch.Generator().manual_seed(0))
    leaves = [tensor.requires_grad_() for tensor in (u, *parameters)]
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        lowering(u, parameters)
    out = lowering(u, parameters)
    assert out.shape == u.shape
    assert out.dtype == u.dtype
    assert counter.get_total_flops() == 3 * ir.flops(interface)
    tangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, leaves, tangent)
    assert all(bool(gradient.isfinite().all()) and bool((gradient != 0).any()) for gradient in gradients)
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = lowering(exact_leaves[0], exact_leaves[1:])
    for mine, theirs in zip(
        [out, *gradients], [exact, *torch.autograd.grad(exact, exact_leaves, tangent.double())], strict=True
    ):
        assert float((mine.double() - theirs).detach().norm() / theirs.detach().norm()) < 1e-5
    # One sample alone gives what it gives in a batch: nothing mixes samples.
    torch.testing.assert_close(lowering(u[1:2], parameters), out[1:2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("op", "layout", "number"), [case for case in _cases() if case[1] is Layout.SEQUENCE])
def test_what_is_called_causal_does_not_see_ahead(op: str, layout: Layout, number: int) -> None:
    ir, interface = blueprint(op, layout, number), SMALL[layout]
    parameters, u = draw(ir, interface, 2, torch.Generator().manual_seed(0))
    lowering = Lowering.of(ir, interface)
    changed = u.clone()
    changed[:, -1] += 1.0
    same = torch.equal(lowering(u, parameters)[:, :-1], lowering(changed, parameters)[:, :-1])
    assert same == ir.causal


def run(nodes: dict[str, object], layout: Layout, interface: Interface | None = None):
    """Output, input and parameters of a small design."""
    ir = BlueprintIR({"u": node("input"), **nodes}, next(reversed(nodes)), (layout,))  # type: ignore[dict-item]
    interface = interface or SMALL[layout]
    parameters, u = draw(ir, interface, 2, torch.Generator().manual_seed(3))
    return Lowering.of(ir, interface)(u, parameters), u, parameters


def test_linear_is_the_same_map_at_every_position() -> None:
    for layout in SMALL:
        out, u, (weight, bias) = run({"y": node("linear", "u", out="w")}, layout)
        dim = 2 if layout is Layout.SEQUENCE else 1
        expected = F.linear(u.movedim(dim, -1), weight, bias).movedim(-1, dim)
        torch.testing.assert_close(out, expected)


def test_norms_are_over_the_features() -> None:
    for layout in SMALL:
        dim = 2 if layout is Layout.SEQUENCE else 1
        out, u, (weight, bias) = run({"y": node("layer_norm", "u")}, layout)
        moved = u.movedim(dim, -1)
        expected = (moved - moved.mean(-1, keepdim=True)) / (moved.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(out, (expected * weight + bias).movedim(-1, dim), rtol=1e-4, atol=1e-5)
        out, u, (weight,) = run({"y": node("rms_norm", "u")}, layout)
        moved = u.movedim(dim, -1)
        expected = moved / (moved.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight
        torch.testing.assert_close(out, expected.movedim(-1, dim), rtol=1e-4, atol=1e-5)


def test_attention_is_softmax_of_scaled_products() -> None:
    design = {"y": node("attention", "u", heads=2, head_dim=4, causal=True)}
    out, u, (qkv_weight, out_weight) = run(design, Layout.SEQUENCE)
    batch, steps, _ = u.shape
    q, k, v = (u @ qkv_weight.T).reshape(batch, steps, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-1, -2)) / 2.0
    scores = scores.masked_fill(torch.ones(steps, steps).triu(1).bool(), float("-inf"))
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, steps, 8)
    torch.testing.assert_close(out, mixed @ out_weight.T, rtol=1e-4, atol=1e-5)


def test_small_operators_do_what_their_names_say() -> None:
    out, u, _ = run({"y": node("token_shift", "u", steps=2)}, Layout.SEQUENCE)
    assert torch.equal(out[:, 2:], u[:, :-2])
    assert not out[:, :2].any()
    out, u, _ = run({"y": node("scale", "u", log2=3)}, Layout.VECTOR)
    assert torch.equal(out, u * 8)
    nodes = {"p": node("avg_pool", "u", factor=2), "y": node("upsample", "p", factor=2)}
    out, u, _ = run(nodes, Layout.IMAGE2D)
    torch.testing.assert_close(out, F.interpolate(F.avg_pool2d(u, 2), scale_factor=2, mode="nearest"))
    out, u, (gain,) = run({"y": node("channel_scale", "u")}, Layout.IMAGE1D)
    assert torch.equal(out, u * gain[:, None])
    out, u, _ = run({"b": node("concat", "u", "u"), "y": node("glu", "b", fn="tanh")}, Layout.IMAGE1D)
    torch.testing.assert_close(out, u * torch.tanh(u))


def test_a_design_for_another_interface_is_refused() -> None:
    ir = blueprint("conv1d", Layout.IMAGE1D, 0)
    with pytest.raises(BlueprintError):
        Lowering.of(ir, SMALL[Layout.VECTOR])


def test_equal_designs_share_one_lowering() -> None:
    ir = blueprint("linear", Layout.VECTOR, 0)
    renamed = BlueprintIR({"a": node("input"), "b": node("linear", "a", out="w")}, "b", (Layout.VECTOR,))
    other = BlueprintIR({"z": node("input"), "q": node("linear", "z", out="w")}, "q", (Layout.VECTOR,))
    interface = SMALL[Layout.VECTOR]
    assert Lowering.of(renamed, interface) is Lowering.of(other, interface)
    assert Lowering.of(ir, interface) is not Lowering.of(renamed, interface)
