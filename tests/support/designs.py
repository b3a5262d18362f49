"""Blueprints for tests: small ones by hand, random ones, and the same design in disguise."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from leyline.blueprint import BlueprintIR, Node, node
from leyline.interface import Interface, Layout
from leyline.operators import OPERATORS

WIDTH = 8
VECTOR = Interface(Layout.VECTOR, WIDTH)
RANDOM = st.randoms(use_true_random=False)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def ir(nodes: Mapping[str, Node], output: str | None = None, *layouts: Layout) -> BlueprintIR:
    return BlueprintIR(nodes, output or list(nodes)[-1], layouts or (Layout.VECTOR,))


def mlp(**last: Any) -> BlueprintIR:
    return ir(
        {
            "x": node("input"),
            "n": node("layer_norm", "x"),
            "up": node("linear", "n", out="4w"),
            "a": node("act", "up", fn="gelu"),
            "down": node("linear", "a", out="w", **last),
        },
        None,
        Layout.VECTOR,
        Layout.SEQUENCE,
    )


# ---- random designs, all of whose nodes have the slot's width

ONE = [
    ("linear", {"out": "w"}),
    ("linear", {"out": "w", "init": "zeros", "bias": False}),
    ("linear", {"out": WIDTH}),
    ("layer_norm", {}),
    ("rms_norm", {"init": "zeros"}),
    ("channel_scale", {}),
    ("act", {"fn": "gelu"}),
    ("act", {"fn": "sigmoid"}),
    ("scale", {"log2": -1}),
]
TWO = [("add", {}), ("mul", {}), ("concat glu", {})]
SYMMETRIC = [("linear", {"out": "w"})], [("add", {})]


@st.composite
def designs(draw: st.DrawFn, one: Any = ONE, two: Any = TWO, most: int = 14) -> BlueprintIR:
    nodes = {"n0": node("input")}
    for number in range(1, draw(st.integers(2, most))):
        op, params = draw(st.sampled_from([*one, *two]))
        inputs = [f"n{draw(st.integers(0, number - 1))}" for _ in range(2 if (op, params) in two else 1)]
        if op == "concat glu":
            nodes[f"c{number}"] = node("concat", *inputs)
            nodes[f"n{number}"] = node("glu", f"c{number}", fn="tanh")
        else:
            nodes[f"n{number}"] = node(op, *inputs, **params)
    return ir(nodes)


def disguised(design: BlueprintIR, random: Random) -> BlueprintIR:
    """The same design under other names, in another order, with commutative inputs swapped and dead nodes added."""
    names = [f"m{number}" for number in range(len(design.nodes))]
    random.shuffle(names)
    new = dict(zip(design.nodes, names, strict=True))
    nodes = {}
    for name, entry in design.nodes.items():
        inputs = [new[source] for source in entry.inputs]
        if OPERATORS[entry.op].commutes and random.random() < 0.5:
            inputs.reverse()
        params = dict(entry.params)
        if random.random() < 0.5 and params.get("out") == "w":
            params["out"] = random.choice(["1w", "w/1", "3w/3"])
        if random.random() < 0.5 and entry.op == "linear":
            params.setdefault("bias", True)
        nodes[new[name]] = node(entry.op, *inputs, **params)
    for number in range(random.randrange(3)):
        nodes[f"dead{number}"] = node("linear", random.choice(names), out=random.choice([3, "w/7", "2w"]))
    for name in list(nodes):  # a parameter-free operation done twice is the same operation
        if not OPERATORS[nodes[name].op].parametrised and random.random() < 0.3:
            nodes[f"twin-{name}"] = nodes[name]
            for user, entry in nodes.items():
                swapped = tuple(
                    f"twin-{name}" if source == name and random.random() < 0.5 else source for source in entry.inputs
                )
                nodes[user] = Node(entry.op, swapped, entry.params)
    order = list(nodes.items())
    random.shuffle(order)
    return BlueprintIR(dict(order), new[design.output], design.layouts)
