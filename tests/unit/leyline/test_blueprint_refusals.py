"""Hostile and wrong blueprints are refused quickly, with the place and what is allowed."""

from __future__ import annotations

import contextlib
import itertools
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from designs import RANDOM, VECTOR, WIDTH, designs, disguised, ir, mlp, relaxed
from leyline.blueprint import MAX_BYTES, MAX_NODES, BlueprintIR, Node, node
from leyline.errors import BlueprintError
from leyline.interface import Layout

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
