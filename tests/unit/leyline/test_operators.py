"""The vocabulary: domains are exact, and every operator's shapes, weights and work are what PyTorch makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leyline.blueprint import BlueprintIR, node
from leyline.domains import Boolean, Choice, Either, Integer, Width, resolve
from leyline.errors import BlueprintError
from leyline.interface import MAX_WIDTH, Interface, Layout
from leyline.operators import INITIALISERS, OPERATORS

VECTOR, SEQUENCE = Interface(Layout.VECTOR, 8), Interface(Layout.SEQUENCE, 8, (6,))
IMAGE1D, IMAGE2D = Interface(Layout.IMAGE1D, 8, (6,)), Interface(Layout.IMAGE2D, 8, (4, 6))
ALL = (VECTOR, SEQUENCE, IMAGE1D, IMAGE2D)
POSITIONED, IMAGES = ALL[1:], ALL[2:]


def branch(interface: Interface, **nodes: Any) -> BlueprintIR:
    """A blueprint of these nodes after the input `x`; the last one is the output."""
    return BlueprintIR({"x": node("input"), **nodes}, list(nodes)[-1], (interface.layout,))


def of(interface: Interface, name: str) -> str:
    return f"{name} on {interface.layout.value}"


# ---- domains

WIDTHS = Width()


@given(st.integers(1, MAX_WIDTH), st.integers(1, 64), st.integers(1, 64))
def test_a_bound_width_is_a_share_of_the_slots(width: int, times: int, over: int) -> None:
    text = f"{times}w/{over}"
    assert WIDTHS.holds(text)
    normal = WIDTHS.normal(text)
    assert WIDTHS.holds(normal)
    exact = width * times / over
    for spelling in (text, normal):
        if width * times % over == 0 and 1 <= exact <= MAX_WIDTH:
            assert resolve(spelling, width) == exact
        else:
            with pytest.raises(ValueError, match=f"slot of width {width}"):
                resolve(spelling, width)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_equal_shares_have_one_spelling(times: int, over: int, factor: int) -> None:
    assert WIDTHS.normal(f"{times}w/{over}") == WIDTHS.normal(f"{times * factor}w/{over * factor}")


def test_spellings() -> None:
    assert [WIDTHS.normal(t) for t in ("w", "1w", "w/1", "2w/4", "6w/2", 5)] == ["w", "w", "w", "w/2", "3w", 5]


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, MAX_WIDTH + 1, 2**70, True, 1.0, None, b"w", ["w"], ("w",), {}),
        *("", "W", "0w", "w/0", "-w", "w*2", "w/", "/2", "w w", "w\n", " w", "１w", "w/²", "01w", "9999w", "w/9999"),
        *("w" * 99, "1e1w", "2.0w"),
    ],
    ids=repr,
)
def test_what_is_not_a_width(value: object) -> None:
    assert not WIDTHS.holds(value)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Boolean(), [True, False], [0, 1, "true", None, 1.0]),
        (Integer(1, 9), [1, 9], [0, 10, True, 1.0, "1", None]),
        (Integer(1, 9, odd=True), [1, 3, 9], [2, 8, 11]),
        (Integer(-4, 4), [-4, 0], [-5, False]),
        (Choice(("a", "b")), ["a", "b"], ["c", "", "A", None, 0, ["a"], {"a": 1}]),
        (Either((Choice(("a",)), WIDTHS)), ["a", 4, "w/2"], ["b", 0, True, None]),
    ],
)
def test_domains_are_exact(domain: Any, inside: list[Any], outside: list[Any]) -> None:
    assert all(domain.holds(value) and domain.normal(value) == value for value in inside)
    assert not any(domain.holds(value) for value in outside)
    assert domain.allowed


def test_the_table_is_consistent() -> None:
    for name, operator in OPERATORS.items():
        assert 0 <= operator.least <= operator.most
        assert operator.most == 0 or operator.layouts
        assert operator.summary
        assert [p.name for p in operator.params] == list(dict.fromkeys(p.name for p in operator.params))
        assert all(p.default is None or p.domain.holds(p.default) for p in operator.params)
        assert operator.parametrised == any(p.name == "init" for p in operator.params), name
        assert not operator.commutes or (operator.least, operator.most) == (2, 2)


# ---- shapes

SHAPES: list[tuple[str, tuple[Interface, ...], dict[str, Any], Callable[[Interface], tuple[int, tuple[int, ...]]]]] = [
    ("linear", ALL, {"y": node("linear", "x", out="2w")}, lambda i: (16, i.trailing)),
    ("linear fixed", ALL, {"y": node("linear", "x", out=5)}, lambda i: (5, i.trailing)),
    ("layer_norm", ALL, {"y": node("layer_norm", "x")}, lambda i: (8, i.trailing)),
    ("rms_norm", ALL, {"y": node("rms_norm", "x")}, lambda i: (8, i.trailing)),
    ("group_norm", (VECTOR, *IMAGES), {"y": node("group_norm", "x", groups="w/2")}, lambda i: (8, i.trailing)),
    ("act", ALL, {"y": node("act", "x", fn="gelu")}, lambda i: (8, i.trailing)),
    ("glu", ALL, {"y": node("glu", "x")}, lambda i: (4, i.trailing)),
    ("add", ALL, {"y": node("add", "x", "x")}, lambda i: (8, i.trailing)),
    ("mul", ALL, {"y": node("mul", "x", "x")}, lambda i: (8, i.trailing)),
    ("concat", ALL, {"y": node("concat", "x", "x", "x")}, lambda i: (24, i.trailing)),
    ("scale", ALL, {"y": node("scale", "x", log2=-3)}, lambda i: (8, i.trailing)),
    ("channel_scale", ALL, {"y": node("channel_scale", "x")}, lambda i: (8, i.trailing)),
    ("conv1d", (IMAGE1D,), {"y": node("conv1d", "x", out=12, kernel=5, dilation=2)}, lambda i: (12, i.trailing)),
    ("conv2d", (IMAGE2D,), {"y": node("conv2d", "x", out="w/2", kernel=3)}, lambda i: (4, i.trailing)),
    ("causal_conv", (SEQUENCE,), {"y": node("causal_conv", "x", kernel=4)}, lambda i: (8, i.trailing)),
    ("token_shift", (SEQUENCE,), {"y": node("token_shift", "x")}, lambda i: (8, i.trailing)),
    ("attention", (SEQUENCE,), {"y": node("attention", "x", heads=2, head_dim=3, causal=True)}, lambda i: (8, (6,))),
    ("avg_pool", IMAGES, {"y": node("avg_pool", "x", factor=2)}, lambda i: (8, tuple(s // 2 for s in i.trailing))),
    ("upsample", IMAGES, {"y": node("upsample", "x", factor=3)}, lambda i: (8, tuple(s * 3 for s in i.trailing))),
    ("global_pool", POSITIONED, {"y": node("global_pool", "x")}, lambda i: (8, (1,) * len(i.trailing))),
    (
        "broadcast",
        POSITIONED,
        {"p": node("global_pool", "x"), "q": node("linear", "p", out=3), "y": node("broadcast", "q", "x")},
        lambda i: (3, i.trailing),
    ),
]


def test_every_operator_has_a_shape_case() -> None:
    assert {name.split()[0] for name, *_ in SHAPES} | {"input"} == set(OPERATORS)


@pytest.mark.parametrize(
    ("interface", "nodes", "expected"),
    [
        pytest.param(interface, nodes, rule(interface), id=of(interface, name))
        for name, interfaces, nodes, rule in SHAPES
        for interface in interfaces
    ],
)
def test_shapes(interface: Interface, nodes: dict[str, Any], expected: tuple[int, tuple[int, ...]]) -> None:
    # The way back to the slot's shape, so that the case is part of a branch that fits.
    back = {"m": node("linear", "y", out="w")}
    if interface.trailing:
        back |= {"g": node("global_pool", "m"), "b": node("broadcast", "g", "x")}
    ir = branch(interface, **nodes, **back)
    assert ir.infer(interface)["y"] == interface.layout.sample_shape(*expected)
    assert ir.infer(interface)[ir.output] == interface.sample_shape


@pytest.mark.parametrize(
    ("interface", "nodes", "words"),
    [
        (VECTOR, {"y": node("linear", "x", out=5)}, r"'y': the output has shape \(5,\) .allowed: .*\(8,\)"),
        (VECTOR, {"a": node("linear", "x", out=5), "y": node("add", "x", "a")}, r"'y': .*\(8,\) and \(5,\)"),
        (VECTOR, {"y": node("linear", "x", out="w/3")}, "'y': parameter out: w/3 is not a whole number"),
        (
            VECTOR,
            {"a": node("linear", "x", out="8000w"), "y": node("linear", "a", out="w")},
            "'a': .*out: 8000w is 64000",
        ),
        (VECTOR, {"a": node("linear", "x", out=7), "g": node("glu", "a")}, "'g': .*7 cannot be halved"),
        (VECTOR, {"y": node("group_norm", "x", groups=3)}, "'y': 3 groups do not divide width 8"),
        (VECTOR, {"y": node("group_norm", "x", groups="w")}, "'y': each group has a single value"),
        (IMAGE1D, {"y": node("conv1d", "x", out="w", kernel=3, groups=3)}, "'y': 3 groups do not divide"),
        (IMAGE1D, {"y": node("conv1d", "x", out=12, kernel=3, groups="depthwise")}, "'y': 8 groups do not divide"),
        (IMAGE1D, {"y": node("avg_pool", "x", factor=4)}, r"'y': factor 4 does not divide position sizes \(6,\)"),
        (IMAGE1D, {"p": node("avg_pool", "x", factor=2), "y": node("add", "x", "p")}, "'y': its inputs have shapes"),
        (IMAGE1D, {"p": node("avg_pool", "x", factor=2), "y": node("concat", "x", "p")}, "'y': .*position sizes"),
        (IMAGE1D, {"y": node("broadcast", "x", "x")}, r"'y': its first input has position sizes \(6,\)"),
        (SEQUENCE, {"y": node("token_shift", "x", steps=6)}, "'y': 6 steps leave nothing of 6 positions"),
        (SEQUENCE, {"y": node("attention", "x", heads=128, head_dim=65, causal=True)}, "'y': heads × head_dim is 8320"),
        (VECTOR, {"a": node("linear", "x", out=8000), "y": node("concat", "a", "a")}, "'y': .*16000 wide"),
        (
            Interface(Layout.IMAGE2D, 8, (512, 512)),
            {"a": node("upsample", "x", factor=16), "y": node("avg_pool", "a", factor=16)},
            "'a': .*too large for one sample",
        ),
        (
            Interface(Layout.SEQUENCE, 8, (8192,)),
            {"y": node("attention", "x", heads=2, head_dim=4, causal=True)},
            "'y': attention over 8192 positions is too large",
        ),
        (
            Interface(Layout.VECTOR, 8192),
            {f"l{i}": node("linear", f"l{i - 1}" if i else "x", out="w") for i in range(5)},
            "'l3': the blueprint has 268468224 parameters",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(interface: Interface, nodes: dict[str, Any], words: str) -> None:
    ir = branch(interface, **nodes)
    ir.check()
    for ask in (ir.check, ir.infer, ir.parameters, ir.flops, ir.steps, ir.parameter_count):
        with pytest.raises(BlueprintError, match=words):
            ask(interface)


def test_a_layout_that_is_not_meant_is_refused() -> None:
    with pytest.raises(BlueprintError, match=r"not meant for layout sequence \(allowed: vector"):
        branch(VECTOR, y=node("act", "x", fn="relu")).check(SEQUENCE)


# ---- learned tensors

PARAMETERS: list[tuple[Interface, Any, list[tuple[str, tuple[int, ...], str]]]] = [
    (VECTOR, node("linear", "x", out="w"), [("weight", (8, 8), "kaiming_uniform"), ("bias", (8,), "zeros")]),
    (VECTOR, node("linear", "x", out="w", bias=False, init="zeros"), [("weight", (8, 8), "zeros")]),
    (IMAGE1D, node("conv1d", "x", out="w", kernel=3, groups=2, bias=False), [("weight", (8, 4, 3), "kaiming_uniform")]),
    (
        IMAGE2D,
        node("conv2d", "x", out="w", kernel=5, groups="depthwise", init="zeros"),
        [("weight", (8, 1, 5, 5), "zeros"), ("bias", (8,), "zeros")],
    ),
    (SEQUENCE, node("causal_conv", "x", kernel=4, bias=False), [("weight", (8, 1, 4), "kaiming_uniform")]),
    (
        SEQUENCE,
        node("attention", "x", heads=2, head_dim="w/4", causal=True, init="zeros"),
        [("qkv_weight", (12, 8), "xavier_uniform"), ("out_weight", (8, 4), "zeros")],
    ),
    (VECTOR, node("layer_norm", "x"), [("weight", (8,), "ones"), ("bias", (8,), "zeros")]),
    (VECTOR, node("rms_norm", "x", init="zeros"), [("weight", (8,), "zeros")]),
    (VECTOR, node("group_norm", "x", groups=2), [("weight", (8,), "ones"), ("bias", (8,), "zeros")]),
    (VECTOR, node("channel_scale", "x"), [("weight", (8,), "ones")]),
]


@pytest.mark.parametrize(("interface", "entry", "expected"), PARAMETERS, ids=lambda v: getattr(v, "op", None))
def test_parameters(interface: Interface, entry: Any, expected: list[tuple[str, tuple[int, ...], str]]) -> None:
    ir = branch(interface, y=entry)
    found = [(spec.name, spec.shape, spec.init) for spec in ir.parameters(interface)]
    assert found == [(f"1.{name}", shape, init) for name, shape, init in expected]
    assert ir.parameter_count(interface) == sum(math.prod(shape) for _, shape, _ in expected)
    assert {init for _, _, init in found} <= set(INITIALISERS)
    assert ir.trainable


# ---- work

BATCH = 3


def counted(run: Callable[[], object]) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def tensor(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def attend(causal: bool) -> None:
    u, qkv, out = tensor(BATCH, 6, 8), tensor(30, 8), tensor(8, 10)
    q, k, v = (t.reshape(BATCH, 6, 2, 5).transpose(1, 2) for t in F.linear(u, qkv).chunk(3, -1))
    F.linear(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(BATCH, 6, 10), out)


@pytest.mark.parametrize(
    ("interface", "entry", "run"),
    [
        (VECTOR, node("linear", "x", out="w"), lambda: F.linear(tensor(BATCH, 8), tensor(8, 8), tensor(8))),
        (SEQUENCE, node("linear", "x", out="w"), lambda: F.linear(tensor(BATCH, 6, 8), tensor(8, 8), tensor(8))),
        (IMAGE1D, node("linear", "x", out="w"), lambda: F.conv1d(tensor(BATCH, 8, 6), tensor(8, 8, 1))),
        (IMAGE2D, node("linear", "x", out="w"), lambda: F.conv2d(tensor(BATCH, 8, 4, 6), tensor(8, 8, 1, 1))),
        (
            IMAGE1D,
            node("conv1d", "x", out="w", kernel=5, dilation=2, groups=2),
            lambda: F.conv1d(tensor(BATCH, 8, 6), tensor(8, 4, 5), padding=4, dilation=2, groups=2),
        ),
        (
            IMAGE2D,
            node("conv2d", "x", out="w", kernel=3, groups="depthwise"),
            lambda: F.conv2d(tensor(BATCH, 8, 4, 6), tensor(8, 1, 3, 3), padding=1, groups=8),
        ),
        (
            SEQUENCE,
            node("causal_conv", "x", kernel=4, dilation=2),
            lambda: F.conv1d(F.pad(tensor(BATCH, 8, 6), (6, 0)), tensor(8, 1, 4), dilation=2, groups=8),
        ),
        (SEQUENCE, node("attention", "x", heads=2, head_dim=5, causal=True), lambda: attend(True)),
        (SEQUENCE, node("attention", "x", heads=2, head_dim=5, causal=False), lambda: attend(False)),
        (VECTOR, node("layer_norm", "x"), lambda: F.layer_norm(tensor(BATCH, 8), (8,))),
        (VECTOR, node("act", "x", fn="gelu"), lambda: F.gelu(tensor(BATCH, 8))),
    ],
    ids=lambda v: getattr(v, "op", None),
)
def test_work_is_what_torch_counts(interface: Interface, entry: Any, run: Callable[[], object]) -> None:
    assert BATCH * branch(interface, y=entry).flops(interface) == counted(run)


def test_work_after_pooling_is_counted_at_one_position() -> None:
    nodes = {"p": node("global_pool", "x"), "q": node("linear", "p", out="w"), "y": node("broadcast", "q", "x")}
    assert branch(IMAGE2D, **nodes).flops(IMAGE2D) == 2 * 8 * 8
