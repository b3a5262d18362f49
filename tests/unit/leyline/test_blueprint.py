"""Blueprints: the hash is of the design, hostile ones are refused quickly, and the analyses are sound."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import pickle  # only to show that blueprints cross process boundaries; nothing of the project reads pickles
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from leyline import canonical
from leyline.blueprint import MAX_BYTES, MAX_NODES, BlueprintIR, Node, node
from leyline.errors import BlueprintError
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


# ---- refusals


def document(**change: Any) -> dict[str, Any]:
    base: dict[str, Any] = json.loads(mlp().to_json())
    return {**base, **change}


def with_node(name: str, entry: Any) -> dict[str, Any]:
    base = document()
    return {**base, "nodes": {**base["nodes"], name: entry}}


def deep(depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


def linear(**change: Any) -> dict[str, Any]:
    return {"op": "linear", "inputs": ["a"], "params": {"out": "w", **change}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # the document
        ([], "the blueprint is a list of 0 items .allowed: an object with schema, layouts, nodes, output"),
        (None, "the blueprint is None"),
        (7, "the blueprint is 7"),
        ({}, "field schema is missing"),
        (document(extra=1), "unknown field 'extra' .allowed: schema, layouts"),
        (document(schema=2), "schema is 2 .int. .allowed: 1"),
        (document(schema=True), "schema is True"),
        (document(schema=1.0), r"schema is 1.0 .float."),
        (document(layouts=[]), "layouts is a list of 0 items"),
        (document(layouts="vector"), "layouts is 'vector'"),
        (document(layouts=["vector", "cube"]), "'cube' is not a layout .allowed: vector, sequence"),
        (document(layouts=["vector", "vector"]), "appears twice"),
        (document(layouts=["vector"] * 1000), "layouts has 1000 entries"),
        (document(layouts=[["vector"]]), "a list of 1 items is not a layout"),
        (document(output="nowhere"), "output is 'nowhere', which is not a node"),
        (document(output=4), "output is 4"),
        (document(output=["x"]), "output is a list"),
        (document(nodes=[]), "nodes is a list"),
        (document(nodes={}), "0 nodes .allowed: 1 to 512"),
        # names
        (with_node("", {"op": "input"}), "a node's name is '' .allowed: 1 to 64 letters"),
        (with_node("a" * 65, {"op": "input"}), "a node's name is 'aaa.*65|a node's name is 'aaa"),
        (with_node("a/b", {"op": "input"}), "a node's name is 'a/b'"),
        (with_node("a\nb", {"op": "input"}), r"a node's name is 'a\\nb'"),
        (with_node("ä", {"op": "input"}), "a node's name is"),
        # nodes
        (with_node("down", 3), "node 'down': the node is 3"),
        (with_node("down", {}), "node 'down': field op is missing"),
        (
            with_node("down", {"op": "linear", "code": "1"}),
            "node 'down': unknown field 'code' .allowed: op, inputs, params",
        ),
        (with_node("down", {"op": "exec"}), "node 'down': unknown operator 'exec' .allowed: input, linear"),
        (with_node("down", {"op": ["linear"]}), "node 'down': unknown operator a list"),
        (with_node("down", {"op": "linear", "inputs": "a"}), "node 'down': inputs is 'a' .allowed: a list"),
        (with_node("down", {"op": "linear", "inputs": []}), "node 'down': linear has 0 inputs .allowed: 1"),
        (with_node("down", {"op": "add", "inputs": ["a"]}), "node 'down': add has 1 inputs .allowed: 2"),
        (with_node("down", {"op": "concat", "inputs": ["a"]}), "node 'down': concat has 1 inputs .allowed: 2 to 8"),
        (with_node("down", {"op": "concat", "inputs": ["a"] * 10**5}), "node 'down': concat has 100000 inputs"),
        (
            with_node("down", {"op": "act", "inputs": ["b"], "params": {"fn": "relu"}}),
            "node 'down': input 'b' is not a node",
        ),
        (
            with_node("down", {"op": "act", "inputs": [3], "params": {"fn": "relu"}}),
            "node 'down': input 3 .int. is not",
        ),
        (with_node("down", {"op": "act", "inputs": [["a"]], "params": {"fn": "relu"}}), "node 'down': input a list"),
        (
            with_node("c", {"op": "conv1d", "inputs": ["x"]}),
            "node 'c': conv1d has no meaning in layout .* .allowed: image1d",
        ),
        # parameters
        (with_node("down", {"op": "linear", "inputs": ["a"], "params": []}), "node 'down': params is a list"),
        (
            with_node("down", {"op": "linear", "inputs": ["a"]}),
            "node 'down': parameter out of linear is missing .allowed: an int",
        ),
        (with_node("down", linear(size=1)), "node 'down': linear has no parameter 'size' .allowed: out, bias, init"),
        (
            with_node("down", {"op": "add", "inputs": ["a", "a"], "params": {"k": 1}}),
            "'down': add has no parameter 'k'",
        ),
        (with_node("down", linear(out=True)), "node 'down': parameter out is True .allowed: an integer from 1 to 8192"),
        (with_node("down", linear(bias=1)), "node 'down': parameter bias is 1 .int. .allowed: true or false"),
        (with_node("down", linear(bias="true")), "node 'down': parameter bias is 'true'"),
        (with_node("down", linear(out=8.0)), "node 'down': parameter out is 8.0 .float."),
        (with_node("down", linear(out=0)), "node 'down': parameter out is 0"),
        (with_node("down", linear(out=10**5000)), "node 'down': parameter out is an integer of 16610 bits"),
        (with_node("down", linear(out=None)), "node 'down': parameter out is None"),
        (with_node("down", linear(out="w+1")), "node 'down': parameter out is 'w.1'"),
        (with_node("down", linear(out=deep(100_000))), "node 'down': parameter out is a list of 1 items"),
        (with_node("down", linear(init="ones")), "node 'down': parameter init is 'ones' .allowed: default, zeros"),
        (
            with_node("a", {"op": "act", "inputs": ["up"], "params": {"fn": "os.system"}}),
            "'a': parameter fn .* .allowed: relu",
        ),
        # cycles
        (with_node("n", {"op": "layer_norm", "inputs": ["down"]}), "node '(n|up|a|down)': it is part of a cycle"),
        (with_node("loop", {"op": "layer_norm", "inputs": ["loop"]}), "node 'loop': it is part of a cycle"),
        # text
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b'{"schema":1,"schema":1}', "key 'schema' appears twice"),
        (b'{"nodes":{"x":{"op":"input"},"x":{"op":"input"}}}', "key 'x' appears twice"),
        (b'{"schema":NaN}', "not valid JSON: NaN"),
        (b'{"schema":1e999}', "out of range"),
        (b'{"schema":' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (MAX_BYTES + 1), "262145 bytes long .allowed: at most 262144"),
        ("x" * (MAX_BYTES + 1), "262145 bytes long"),
    ],
    ids=itertools.count(),
)
def test_refused_documents_say_where_and_what_is_allowed(data: Any, words: str) -> None:
    with pytest.raises(BlueprintError, match=words) as caught:
        BlueprintIR.from_json(data)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("linear", "node 'y': it is 'linear' .allowed: a Node"),
        (Node("act", ["x"], (("fn", "relu"),)), "node 'y': inputs is a list of 1 items .allowed: a tuple"),  # type: ignore[arg-type]
        (Node("act", ("x",), (("fn", "relu"), ("fn", "tanh"))), "node 'y': parameter fn appears twice"),
        (Node("act", ("x",), ("fn",)), "node 'y': a parameter is 'fn'"),  # type: ignore[arg-type]
        (Node("act", ("x",), ((1, "relu"),)), "node 'y': a parameter is a list of 2 items"),  # type: ignore[arg-type]
        (Node("act", ("x",), None), "node 'y': params is None"),  # type: ignore[arg-type]
    ],
)
def test_nodes_made_in_python_are_checked_as_well(entry: Any, words: str) -> None:
    with pytest.raises(BlueprintError, match=words):
        ir({"x": node("input"), "y": entry}).check()


def test_a_blueprint_whose_fields_are_of_other_types_is_refused() -> None:
    for broken in (
        BlueprintIR(None, "x", (Layout.VECTOR,)),  # type: ignore[arg-type]
        BlueprintIR([node("input")], "x", (Layout.VECTOR,)),  # type: ignore[arg-type]
        BlueprintIR({"x": node("input")}, None, (Layout.VECTOR,)),  # type: ignore[arg-type]
        BlueprintIR({"x": node("input")}, "x", None),  # type: ignore[arg-type]
        BlueprintIR({1: node("input")}, "x", (Layout.VECTOR,)),  # type: ignore[dict-item]
    ):
        with pytest.raises(BlueprintError):
            broken.check()


@pytest.mark.parametrize("count", [MAX_NODES + 1, 10**6])
def test_a_long_chain_is_refused_without_walking_it(count: int) -> None:
    nodes = {"n0": node("input")}
    for number in range(1, count):
        nodes[f"n{number}"] = Node("act", (f"n{number - 1}",), (("fn", "relu"),))
    for ask in (
        BlueprintIR(nodes, f"n{count - 1}", (Layout.VECTOR,)).digest,
        lambda: BlueprintIR.from_json({"schema": 1, "layouts": ["vector"], "nodes": nodes, "output": "n1"}),
    ):
        with pytest.raises(BlueprintError, match=f"{count} nodes .allowed: 1 to 512"):
            ask()


def test_the_longest_chain_is_accepted() -> None:
    nodes = {"n0": node("input")}
    for number in range(1, MAX_NODES):
        nodes[f"n{number}"] = node("act", f"n{number - 1}", fn="relu")
    design = ir(nodes)
    design.check(VECTOR)
    assert len(design.order()) == MAX_NODES
    assert BlueprintIR.from_json(design.canonical()) == design


def tree(leaves: int, leaf: Node) -> BlueprintIR:
    nodes, level = {"x": node("input")}, [f"l{number}" for number in range(leaves)]
    nodes.update(dict.fromkeys(level, leaf))
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=True))
        level = [f"s{len(nodes) + number}" for number in range(len(pairs))]
        nodes.update({name: node("add", *pair) for name, pair in zip(level, pairs, strict=True)})
    return ir(nodes)


def test_many_equal_branches_have_a_digest() -> None:
    design = tree(32, node("linear", "x", out="w"))
    assert disguised(design, Random(0)).digest() == design.digest()
    assert design.parameter_count(VECTOR) == 32 * (WIDTH * WIDTH + WIDTH)


def test_equal_parameter_free_branches_are_one() -> None:
    assert len(tree(128, node("act", "x", fn="relu")).order()) == 2 + 7


def test_more_symmetry_than_can_be_ordered_is_refused() -> None:
    with pytest.raises(BlueprintError, match="too many interchangeable parts"):
        tree(256, node("linear", "x", out="w")).check()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["x", "y", "w", "input", "act", "vector"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["op", "inputs", "params", "x", "fn"]), v),
)


@relaxed
@given(
    st.fixed_dictionaries(
        {"schema": st.just(1) | JSON, "layouts": st.just(["vector"]) | JSON, "output": JSON, "nodes": JSON}
    )
)
def test_any_document_is_read_or_refused(data: dict[str, Any]) -> None:
    try:
        design = BlueprintIR.from_json(data)
    except BlueprintError:
        return
    assert BlueprintIR.from_json(design.canonical()) == design


@given(st.binary(max_size=64) | st.text(max_size=64))
def test_no_noise_is_a_blueprint(data: bytes | str) -> None:
    with pytest.raises(BlueprintError):
        BlueprintIR.from_json(data)


@relaxed
@given(designs(), RANDOM)
def test_a_corrupted_document_is_read_or_refused(design: BlueprintIR, random: Random) -> None:
    data = bytearray(design.to_json())
    for _ in range(random.randrange(1, 4)):
        data[random.randrange(len(data))] = random.randrange(256)
    with contextlib.suppress(BlueprintError):
        design = BlueprintIR.from_json(data)
        assert BlueprintIR.from_json(design.canonical()) == design


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
