"""A blueprint's hash is of the design, whatever its spelling; its order is canonical."""

from __future__ import annotations

import copy
import itertools
import json
import pickle  # only to show that blueprints cross process boundaries; nothing of the project reads pickles
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given

from designs import RANDOM, SYMMETRIC, VECTOR, designs, disguised, ir, mlp, relaxed
from leyline.blueprint import BlueprintIR, Node, node
from leyline.interface import Interface, Layout
from leyline.operators import OPERATORS


@relaxed
@given(designs() | designs(*SYMMETRIC, most=24), RANDOM)
def test_the_digest_is_of_the_design_and_not_of_its_spelling(design: BlueprintIR, random: Random) -> None:
    other = disguised(design, random)
    assert other.canonical() == design.canonical()
    assert other.digest() == design.digest()
    assert other == design
    assert hash(other) == hash(design)
    assert [n[:4] for n in map(_entry, other.order())] == [n[:4] for n in map(_entry, design.order())]
    assert other.parameters(VECTOR) == design.parameters(VECTOR)
    assert other.flops(VECTOR) == design.flops(VECTOR)


def _entry(n: Any) -> tuple[Any, ...]:
    return n.name, n.op, n.params, n.inputs


def _merged(design: BlueprintIR) -> tuple[int, list[tuple[str, bool, tuple[int, ...]]]]:
    """Live nodes, numbered; equal parameter-free ones merged by comparing each with all before it."""
    number: dict[str, int] = {}
    found: list[tuple[str, bool, tuple[int, ...]]] = []

    def visit(name: str) -> int:
        if name not in number:
            entry = design.nodes[name]
            inputs = tuple(visit(source) for source in entry.inputs)
            commutes = OPERATORS[entry.op].commutes
            this = (entry.op, commutes, tuple(sorted(inputs)) if commutes else inputs)
            if entry.op != "linear" and this in found:
                number[name] = found.index(this)
            else:
                number[name] = len(found)
                found.append(this)
        return number[name]

    output = visit(design.output)
    return output, found


def _isomorphic(one: BlueprintIR, two: BlueprintIR) -> bool:
    """Whether some renaming turns one design into the other, by trying them all."""
    (out_one, first), (out_two, second) = _merged(one), _merged(two)
    if sorted(op for op, *_ in first) != sorted(op for op, *_ in second):
        return False
    for places in itertools.permutations(range(len(first))):
        if places[out_one] != out_two:
            continue
        if all(
            second[places[i]]
            == (op, commutes, tuple(sorted(places[s] for s in inputs) if commutes else (places[s] for s in inputs)))
            for i, (op, commutes, inputs) in enumerate(first)
        ):
            return True
    return False


SMALL = designs(*SYMMETRIC, most=7)


@relaxed
@given(SMALL, SMALL)
def test_digests_are_equal_exactly_for_isomorphic_designs(one: BlueprintIR, two: BlueprintIR) -> None:
    assert (one.digest() == two.digest()) == _isomorphic(one, two)


def test_every_pair_of_tiny_designs_is_told_apart_correctly() -> None:
    def all_of(count: int) -> Iterator[BlueprintIR]:
        choices = []
        for number in range(1, count):
            linears = [("linear", (i,)) for i in range(number)]
            choices.append(linears + [("add", pair) for pair in itertools.product(range(number), repeat=2)])
        for picked in itertools.product(*choices):
            nodes = {"n0": node("input")}
            for number, (op, inputs) in enumerate(picked, 1):
                params = {"out": "w"} if op == "linear" else {}
                nodes[f"n{number}"] = node(op, *(f"n{i}" for i in inputs), **params)
            yield ir(nodes)

    kinds: dict[str, BlueprintIR] = {}
    for design in all_of(5):
        first = kinds.setdefault(design.digest(), design)
        assert _isomorphic(design, first)
    assert not any(_isomorphic(one, two) for one, two in itertools.combinations(kinds.values(), 2))
    assert len(kinds) > 100


def test_a_tie_that_matters_elsewhere_does_not_depend_on_the_names() -> None:
    """Two equal layers are added, and one of them is also used alone: which one must not matter."""

    def design(alone: str, *inputs: str) -> BlueprintIR:
        return ir(
            {
                "x": node("input"),
                "p": node("linear", "x", out="w"),
                "q": node("linear", "x", out="w"),
                "s": node("add", *inputs),
                "c": node("concat", "s", alone),
                "g": node("glu", "c"),
            }
        )

    assert len({design(alone, *pair).digest() for alone in "pq" for pair in ("pq", "qp")}) == 1


def test_two_layers_are_not_one_shared_layer() -> None:
    two = ir(
        {"x": node("input"), "p": node("linear", "x", out="w"), "q": node("linear", "x", out="w")} | summed("p", "q")
    )
    one = ir({"x": node("input"), "p": node("linear", "x", out="w")} | summed("p", "p"))
    assert one.digest() != two.digest()
    assert one.parameter_count(VECTOR) * 2 == two.parameter_count(VECTOR)
    assert one.flops(VECTOR) * 2 == two.flops(VECTOR)


def summed(*inputs: str) -> dict[str, Node]:
    return {"s": node("add", *inputs)}


@pytest.mark.parametrize(
    "other",
    [
        mlp(bias=False),
        mlp(init="zeros"),
        BlueprintIR(mlp().nodes, "down", (Layout.VECTOR,)),
        BlueprintIR({**mlp().nodes, "a": node("act", "up", fn="relu")}, "down", mlp().layouts),
        BlueprintIR({**mlp().nodes, "up": node("linear", "x", out="4w")}, "down", mlp().layouts),
        BlueprintIR({**mlp().nodes, "up": node("linear", "n", out=32)}, "down", mlp().layouts),
        BlueprintIR({**mlp().nodes, "r": node("add", "x", "down")}, "r", mlp().layouts),
    ],
)
def test_another_design_has_another_digest(other: BlueprintIR) -> None:
    assert other.digest() != mlp().digest()
    assert other != mlp()


def test_the_order_of_concatenation_matters() -> None:
    def design(*inputs: str) -> BlueprintIR:
        nodes = {"x": node("input"), "r": node("act", "x", fn="relu"), "c": node("concat", *inputs)}
        return ir({**nodes, "d": node("linear", "c", out="w")})

    assert design("x", "r").digest() != design("r", "x").digest()


def test_the_order_of_layouts_does_not_matter() -> None:
    turned = BlueprintIR(mlp().nodes, "down", tuple(reversed(mlp().layouts)))
    assert turned.digest() == mlp().digest()


def test_the_digest_is_fixed_for_good() -> None:
    """Artifact ids rest on it: if this changes, so must the schema."""
    assert mlp().canonical() == (
        b'{"layouts":["sequence","vector"],"nodes":{'
        b'"0":{"inputs":[],"op":"input","params":{}},'
        b'"1":{"inputs":["0"],"op":"layer_norm","params":{"init":"default"}},'
        b'"2":{"inputs":["1"],"op":"linear","params":{"bias":true,"init":"default","out":"4w"}},'
        b'"3":{"inputs":["2"],"op":"act","params":{"fn":"gelu"}},'
        b'"4":{"inputs":["3"],"op":"linear","params":{"bias":true,"init":"default","out":"w"}}'
        b'},"output":"4","schema":1}'
    )


# ---- reading, writing, copying


@relaxed
@given(designs())
def test_round_trips(design: BlueprintIR) -> None:
    for form in (design.to_json(), design.to_json().decode(), design.to_dict(), design.canonical()):
        again = BlueprintIR.from_json(form)
        assert again.canonical() == design.canonical()
    assert BlueprintIR.from_json(design.to_json()).nodes == design.nodes
    assert json.loads(design.to_json()) == design.to_dict()


def test_copies_are_equal() -> None:
    design = mlp()
    assert copy.deepcopy(design) == copy.copy(design) == pickle.loads(pickle.dumps(design)) == design  # noqa: S301


def test_the_nodes_of_a_blueprint_cannot_be_changed() -> None:
    nodes = {"x": node("input"), "y": node("act", "x", fn="relu")}
    design = ir(nodes)
    before = design.digest()
    nodes["y"] = node("act", "x", fn="tanh")
    assert ir(design.nodes).digest() == before
    with pytest.raises(TypeError):
        design.nodes["y"] = node("act", "x", fn="tanh")  # type: ignore[index]


def test_order_names_inputs_before_users_and_remembers_the_author() -> None:
    order = mlp().order()
    assert [n.name for n in order] == ["0", "1", "2", "3", "4"]
    assert [n.source for n in order] == ["x", "n", "up", "a", "down"]
    assert order[2].params == (("bias", True), ("init", "default"), ("out", "4w"))
    assert order[2].inputs == ("1",)


def test_steps_are_ready_to_lower() -> None:
    interface = Interface(Layout.SEQUENCE, 8, (5,))
    step = mlp().steps(interface)[2]
    assert (step.op, step.params, step.inputs) == ("linear", {"bias": True, "init": "default", "out": 32}, ("1",))
    assert (step.input_shapes, step.shape, step.macs) == (((5, 8),), (5, 32), 5 * 8 * 32)
    assert [(spec.name, spec.shape) for spec in step.parameters] == [("2.weight", (32, 8)), ("2.bias", (32,))]
