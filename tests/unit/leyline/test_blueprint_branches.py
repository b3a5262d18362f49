"""What can be said of a branch before it is built: zero at its start, causal, trainable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from designs import VECTOR, WIDTH, designs, ir, mlp, relaxed
from leyline import canonical
from leyline.blueprint import BlueprintIR, Node, node
from leyline.interface import Interface, Layout

# ---- what a branch does at its start


def evaluate(design: BlueprintIR, u: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Run a branch on vectors, with its initial parameters."""
    values: dict[str, np.ndarray] = {}
    for step in design.steps(Interface(Layout.VECTOR, u.shape[-1])):
        tensors = {
            spec.name.split(".")[1]: {"zeros": np.zeros, "ones": np.ones}.get(spec.init, random.standard_normal)(
                spec.shape
            )
            for spec in step.parameters
        }
        values[step.name] = compute(step.op, step.params, [values[i] for i in step.inputs] or [u], tensors)
    return values[design.order()[-1].name]


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


def compute(op: str, params: Any, inputs: list[np.ndarray], tensors: dict[str, np.ndarray]) -> np.ndarray:
    x = inputs[0]
    match op:
        case "input":
            return x
        case "linear":
            return x @ tensors["weight"].T + tensors.get("bias", 0)
        case "layer_norm":
            centred = x - x.mean(-1, keepdims=True)
            return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * tensors["weight"] + tensors["bias"]
        case "rms_norm":
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * tensors["weight"]
        case "channel_scale":
            return x * tensors["weight"]
        case "act":
            return ACTIVATIONS[params["fn"]](x)
        case "glu":
            half = x.shape[-1] // 2
            return x[..., :half] * ACTIVATIONS[params["fn"]](x[..., half:])
        case "add":
            return x + inputs[1]
        case "mul":
            return x * inputs[1]
        case "concat":
            return np.concatenate(inputs, -1)
        case "scale":
            return x * 2.0 ** params["log2"]
    raise AssertionError(op)


@relaxed
@given(designs(), st.integers(0, 2**32 - 1))
def test_a_zero_initialised_branch_returns_zero(design: BlueprintIR, seed: int) -> None:
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        output = evaluate(design, random.standard_normal((3, WIDTH)), random)
    assert output.shape == (3, WIDTH)
    assume(np.isfinite(output).all())
    if design.zero_initialised:
        assert not output.any()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({}, False),
        ({"y": node("linear", "x", out="w")}, False),
        ({"y": node("linear", "x", out="w", init="zeros")}, True),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("linear", "a", out="w")}, True),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("act", "a", fn="sigmoid")}, False),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("act", "a", fn="gelu")}, True),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("layer_norm", "a")}, True),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("add", "a", "x")}, False),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("add", "a", "a")}, True),
        ({"a": node("linear", "x", out="w", init="zeros"), "y": node("mul", "a", "x")}, True),
        ({"y": node("channel_scale", "x", init="zeros")}, True),
        ({"y": node("rms_norm", "x", init="zeros")}, True),
        (
            {"a": node("linear", "x", out="w", init="zeros"), "c": node("concat", "a", "x"), "y": node("glu", "c")},
            False,
        ),
        ({"a": node("linear", "x", out="2w", init="zeros"), "y": node("glu", "a")}, True),
        ({"dead": node("linear", "x", out="w", init="zeros"), "y": node("act", "x", fn="relu")}, False),
    ],
)
def test_zero_initialised(nodes: dict[str, Node], expected: bool) -> None:
    assert ir({"x": node("input"), **nodes}).zero_initialised is expected


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({"y": node("attention", "x", heads=2, head_dim=4, causal=True)}, True),
        ({"y": node("attention", "x", heads=2, head_dim=4, causal=False)}, False),
        ({"y": node("causal_conv", "x", kernel=3)}, True),
        ({"y": node("token_shift", "x")}, True),
        ({"p": node("global_pool", "x"), "y": node("broadcast", "p", "x")}, False),
        ({"dead": node("global_pool", "x"), "y": node("linear", "x", out="w")}, True),
    ],
)
def test_causal(nodes: dict[str, Node], expected: bool) -> None:
    design = ir({"x": node("input"), **nodes}, None, Layout.SEQUENCE)
    design.check(Interface(Layout.SEQUENCE, 8, (6,)))
    assert design.causal is expected


def test_a_fixed_function_is_not_trainable() -> None:
    design = ir({"x": node("input"), "y": node("act", "x", fn="relu"), "dead": node("linear", "x", out="w")}, "y")
    assert not design.trainable
    assert (design.parameters(VECTOR), design.parameter_count(VECTOR), design.flops(VECTOR)) == ((), 0, 0)
    assert mlp().trainable


def test_equal_designs_fit_the_same_slots() -> None:
    """A dead node has no say: it cannot make one spelling of a design fit and another not."""
    misfit = ir({**mlp().nodes, "dead": node("linear", "x", out="w/3")}, "down", *mlp().layouts)
    assert misfit == mlp()
    misfit.check(VECTOR)
    assert "dead" not in misfit.infer(VECTOR)


def test_canonical_bytes_are_canonical_json() -> None:
    data = mlp().canonical()
    assert canonical.dumps(canonical.loads(data)) == data
