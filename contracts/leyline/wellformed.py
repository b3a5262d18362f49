"""What makes a graph of nodes a blueprint, checked without trusting it: no recursion, no unbounded work or text."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyline import canonical
from leyline.domains import Value
from leyline.errors import BlueprintError, FieldError, describe
from leyline.interface import Layout
from leyline.operators import OPERATORS

SCHEMA = 1
MAX_NODES = 512
MAX_BYTES = 256 * 1024

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_NAME_ALLOWED = "1 to 64 letters, digits, and _ . - inside"
_DOCUMENT = ("schema", "layouts", "nodes", "output")
_NODE = ("op", "inputs", "params")


@dataclass(frozen=True)
class Node:
    """One operation: an operator, the names of its inputs, and its parameters as (name, value) pairs."""

    op: str
    inputs: tuple[str, ...] = ()
    params: tuple[tuple[str, Value], ...] = ()

    def normal_params(self) -> tuple[tuple[str, Value], ...]:
        """Return every parameter in its one spelling, defaults filled in, sorted; the node must have been checked."""
        given = dict(self.params)
        return tuple(
            sorted(
                (p.name, p.domain.normal(given.get(p.name, p.default)))  # type: ignore[arg-type]
                for p in OPERATORS[self.op].params
            )
        )


def read_document(data: bytes | bytearray | str | Mapping[str, Any]) -> dict[str, Any]:
    """Turn the JSON form into the fields of a blueprint; what the fields say is for `check_graph`.

    Raises:
        BlueprintError: not JSON, too long, or not of this form.
    """
    if isinstance(data, bytes | bytearray | str):
        if len(data) > MAX_BYTES:
            raise BlueprintError("", f"{len(data)} bytes long", f"at most {MAX_BYTES}")
        try:
            data = canonical.loads(data)
        except FieldError as problem:
            raise BlueprintError("", problem.problem, problem.allowed) from None
    document = _fields("", "blueprint", data, _DOCUMENT)
    nodes = document["nodes"]
    if not isinstance(nodes, Mapping):
        raise BlueprintError("", f"nodes is {describe(nodes)}", "an object of nodes by name")
    _bounded(len(nodes))
    return {
        "schema": document["schema"],
        "layouts": _layouts(document["layouts"]),
        "output": document["output"],
        "nodes": {name: _node(name, entry) for name, entry in nodes.items()},
    }


def _node(name: object, entry: object) -> Node:
    _name("", "a node's name", name)
    where = str(name)
    fields = _fields(where, "node", entry, _NODE, optional=("inputs", "params"))
    inputs, params = fields.get("inputs", []), fields.get("params", {})
    if not isinstance(inputs, list | tuple):
        raise BlueprintError(where, f"inputs is {describe(inputs)}", "a list of node names")
    if not isinstance(params, Mapping):
        raise BlueprintError(where, f"params is {describe(params)}", "an object of parameters by name")
    for key in params:
        if not isinstance(key, str):
            raise BlueprintError(where, f"parameter name {describe(key)} is not a string", "a string")
    return Node(fields["op"], tuple(inputs), tuple(sorted(params.items(), key=lambda pair: pair[0])))


def _fields(
    where: str, what: str, data: object, names: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    allowed = f"an object with {', '.join(names)}"
    if not isinstance(data, Mapping):
        raise BlueprintError(where, f"the {what} is {describe(data)}", allowed)
    for name in data:
        if name not in names:
            raise BlueprintError(where, f"unknown field {describe(name)}", ", ".join(names))
    for name in names:
        if name not in data and name not in optional:
            raise BlueprintError(where, f"field {name} is missing", allowed)
    return data


def _layouts(found: object) -> tuple[Layout, ...]:
    allowed = ", ".join(layout.value for layout in Layout)
    if not isinstance(found, list | tuple) or not found:
        raise BlueprintError("", f"layouts is {describe(found)}", f"a list with at least one of {allowed}")
    if len(found) > len(Layout):
        raise BlueprintError("", f"layouts has {len(found)} entries", f"each of {allowed} once")
    layouts = []
    for entry in found:
        if not isinstance(entry, str) or entry not in list(Layout):
            raise BlueprintError("", f"{describe(entry)} is not a layout", allowed)
        layouts.append(Layout(entry))
    if len(set(layouts)) < len(layouts):
        raise BlueprintError("", "a layout appears twice", "each once")
    return tuple(layouts)


def _bounded(count: int) -> None:
    if not 1 <= count <= MAX_NODES:
        raise BlueprintError("", f"{count} nodes", f"1 to {MAX_NODES}")


def _name(where: str, what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BlueprintError(where, f"{what} is {describe(name)}", _NAME_ALLOWED)


def check_graph(nodes: Mapping[str, Node], output: str, layouts: Sequence[Layout], schema: int) -> list[str]:
    """Check everything that does not depend on a slot and return all names with inputs first.

    Raises:
        BlueprintError: naming the node, what is wrong with it and what is allowed.
    """
    if type(schema) is not int or schema != SCHEMA:
        raise BlueprintError("", f"schema is {describe(schema)}", str(SCHEMA))
    if not isinstance(nodes, Mapping):
        raise BlueprintError("", f"nodes is {describe(nodes)}", "nodes by name")
    _bounded(len(nodes))
    meant = _layouts(layouts)
    for name, node in nodes.items():
        _name("", "a node's name", name)
        _check_node(name, node, nodes, meant)
    if not isinstance(output, str) or output not in nodes:
        raise BlueprintError("", f"output is {describe(output)}, which is not a node", "the name of a node")
    return _topological(nodes)


def _check_node(name: str, node: object, nodes: Mapping[str, Node], layouts: Sequence[Layout]) -> None:
    if not isinstance(node, Node):
        raise BlueprintError(name, f"it is {describe(node)}", "a Node")
    if not isinstance(node.op, str) or node.op not in OPERATORS:
        raise BlueprintError(name, f"unknown operator {describe(node.op)}", ", ".join(OPERATORS))
    operator = OPERATORS[node.op]
    wrong = [layout.value for layout in layouts if layout not in operator.layouts]
    if wrong:
        fitting = ", ".join(layout.value for layout in operator.layouts)
        raise BlueprintError(name, f"{node.op} has no meaning in layout {wrong[0]}", fitting)
    if not isinstance(node.inputs, tuple):
        raise BlueprintError(name, f"inputs is {describe(node.inputs)}", "a tuple of node names")
    if not operator.least <= len(node.inputs) <= operator.most:
        several = "" if operator.least == operator.most else f" to {operator.most}"
        raise BlueprintError(name, f"{node.op} has {len(node.inputs)} inputs", f"{operator.least}{several}")
    for source in node.inputs:
        if not isinstance(source, str) or source not in nodes:
            raise BlueprintError(name, f"input {describe(source)} is not a node", "names of nodes")
    _check_params(name, node)


def _check_params(name: str, node: Node) -> None:
    domains = {param.name: param for param in OPERATORS[node.op].params}
    known = ", ".join(domains) or "no parameters"
    given: dict[str, Value] = {}
    if not isinstance(node.params, tuple):
        raise BlueprintError(name, f"params is {describe(node.params)}", "a tuple of pairs of name and value")
    for pair in node.params:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise BlueprintError(name, f"a parameter is {describe(pair)}", "pairs of name and value")
        key, value = pair
        if key not in domains:
            raise BlueprintError(name, f"{node.op} has no parameter {describe(key)}", known)
        if key in given:
            raise BlueprintError(name, f"parameter {key} appears twice", "each once")
        if not domains[key].domain.holds(value):
            raise BlueprintError(name, f"parameter {key} is {describe(value)}", domains[key].domain.allowed)
        given[key] = value
    for key, param in domains.items():
        if param.default is None and key not in given:
            raise BlueprintError(name, f"parameter {key} of {node.op} is missing", param.domain.allowed)


def _topological(nodes: Mapping[str, Node]) -> list[str]:
    users: dict[str, list[str]] = {name: [] for name in nodes}
    waiting = {name: len(node.inputs) for name, node in nodes.items()}
    for name, node in nodes.items():
        for source in node.inputs:
            users[source].append(name)
    ready = deque(name for name, count in waiting.items() if count == 0)
    order: list[str] = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for user in users[name]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    if len(order) < len(nodes):
        raise BlueprintError(_on_cycle(nodes, set(order)), "it is part of a cycle", "inputs that do not depend on it")
    return order


def _on_cycle(nodes: Mapping[str, Node], sorted_names: set[str]) -> str:
    """Walk backwards among the nodes that could not be ordered until one comes up again: that one is on a cycle."""
    name = next(name for name in nodes if name not in sorted_names)
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        name = next(source for source in nodes[name].inputs if source not in sorted_names)
    return name
