"""Blueprints: the design of a kernel as a small typed graph over a closed vocabulary, with a hash of its meaning.

A blueprint is the *branch* s(u): it takes the slot's tensor and returns one of the same shape. Blending adds it to the
host: u + α·s(u) (residual) or (1−α)·u + α·s(u) (convex).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from leyline import canonical
from leyline.domains import Value, resolve
from leyline.errors import BlueprintError
from leyline.interface import MAX_ELEMENTS, MAX_WIDTH, Interface, Layout
from leyline.operators import OPERATORS, ParameterSpec, Signal, Site
from leyline.ordering import TooSymmetric, Vertex, canonical_order
from leyline.wellformed import MAX_BYTES, MAX_NODES, SCHEMA, Node, check_graph, read_document

MAX_PARAMETERS = 2**28
"""Most learned numbers that one kernel may have."""

__all__ = [
    "MAX_BYTES",
    "MAX_NODES",
    "MAX_PARAMETERS",
    "SCHEMA",
    "BlueprintIR",
    "CanonicalNode",
    "Node",
    "Step",
    "node",
]


def node(op: str, *inputs: str, **params: Value) -> Node:
    """Write a node: `node("linear", "x", out="2w", bias=True)`."""
    return Node(op, inputs, tuple(sorted(params.items())))


@dataclass(frozen=True)
class CanonicalNode:
    """A node in canonical order.

    `name`: its index as a string. `source`: what its author called it. `params`: all of them, defaults filled in,
    sorted by name. `inputs`: names of earlier nodes; of a commutative operator in ascending order.
    """

    name: str
    op: str
    params: tuple[tuple[str, Value], ...]
    inputs: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Step:
    """A canonical node on a given interface: what a backend needs to lower it.

    `params`: slot-bound widths are numbers. `input_shapes`, `shape`: of one sample, without the batch.
    `parameters`: its learned tensors, named `<name>.<tensor>`. `macs`: multiply-accumulates for one sample.
    """

    name: str
    op: str
    params: Mapping[str, Value]
    inputs: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    parameters: tuple[ParameterSpec, ...]
    macs: int


@dataclass(frozen=True, eq=False)
class BlueprintIR:
    """A design: named nodes, the one whose value is the branch's output, and the layouts it is meant for.

    Two blueprints are equal when their digests are. Every method but `to_json` first checks the graph, once.
    """

    nodes: Mapping[str, Node]
    output: str
    layouts: tuple[Layout, ...]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if isinstance(self.nodes, Mapping):
            object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))

    @classmethod
    def from_json(cls, data: bytes | bytearray | str | Mapping[str, Any]) -> BlueprintIR:
        """Read the JSON form `{"schema", "layouts", "nodes": {name: {"op", "inputs", "params"}}, "output"}`.

        Raises:
            BlueprintError: the text is not such a document, or the graph is not a blueprint.
        """
        ir = cls(**read_document(data))
        ir.check()
        return ir

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as plain data, as its author wrote it."""
        nodes = {
            name: {"op": n.op, "inputs": list(n.inputs), "params": dict(n.params)} for name, n in self.nodes.items()
        }
        layouts = [str(layout) for layout in self.layouts]
        return {"schema": self.schema, "layouts": layouts, "nodes": nodes, "output": self.output}

    def to_json(self) -> bytes:
        """Return the JSON form as its author wrote it; see `canonical` for the form that is hashed."""
        return canonical.dumps(self.to_dict())

    def check(self, interface: Interface | None = None) -> None:
        """Check names, operators, parameters, arity, cycles and layouts; with an interface also every shape.

        Raises:
            BlueprintError: naming the node, what is wrong and what is allowed.
        """
        _ = self._order
        if interface is not None:
            _ = self._steps(interface)

    def order(self) -> list[CanonicalNode]:
        """Return the nodes that the output needs, inputs first, in an order that does not depend on their names.

        Equal parameter-free nodes are merged; nodes with parameters stay apart, since each has its own.

        Raises:
            BlueprintError: the graph is not a blueprint.
        """
        return list(self._order)

    def canonical(self) -> bytes:
        """Return the JSON form of the canonical order: equal for equal designs, and readable by `from_json`.

        Raises:
            BlueprintError: the graph is not a blueprint.
        """
        return self._canonical

    def digest(self) -> str:
        """Return the SHA-256 of `canonical()` as 64 hexadecimal digits.

        Raises:
            BlueprintError: the graph is not a blueprint.
        """
        return hashlib.sha256(self._canonical).hexdigest()

    def steps(self, interface: Interface) -> list[Step]:
        """Return the canonical order with parameters resolved, shapes inferred and work counted for an interface.

        Raises:
            BlueprintError: the blueprint does not fit the interface.
        """
        return list(self._steps(interface))

    def infer(self, interface: Interface) -> dict[str, tuple[int, ...]]:
        """Return the shape of every node that the output needs, by its author's name, for one sample without the batch.

        Raises:
            BlueprintError: the blueprint does not fit the interface.
        """
        _ = self._steps(interface)
        return {name: interface.layout.sample_shape(s.width, s.trailing) for name, s in self._flow(interface).items()}

    def parameters(self, interface: Interface) -> tuple[ParameterSpec, ...]:
        """Return the learned tensors in canonical order.

        Raises:
            BlueprintError: the blueprint does not fit the interface.
        """
        return tuple(spec for step in self._steps(interface) for spec in step.parameters)

    def parameter_count(self, interface: Interface) -> int:
        """Return how many numbers are learned.

        Raises:
            BlueprintError: the blueprint does not fit the interface.
        """
        return sum(math.prod(spec.shape) for spec in self.parameters(interface))

    def flops(self, interface: Interface) -> int:
        """Return the forward FLOPs of one sample: 2 × the multiply-accumulates of products, convolutions, attention.

        Element-wise work, normalisation and pooling count nothing, as in `torch.utils.flop_counter`. Causal attention
        counts as full attention, and padding counts as data.

        Raises:
            BlueprintError: the blueprint does not fit the interface.
        """
        return 2 * sum(step.macs for step in self._steps(interface))

    @property
    def trainable(self) -> bool:
        """Whether any part of the branch is learned."""
        return any(OPERATORS[n.op].parametrised for n in self._order)

    @property
    def zero_initialised(self) -> bool:
        """Whether the untrained branch is certain to return exactly 0, for any input that does not overflow in it."""
        zero: dict[str, bool] = {}
        for n in self._order:
            zero[n.name] = OPERATORS[n.op].zero(tuple(zero[i] for i in n.inputs), dict(n.params))
        return zero[self._order[-1].name]

    @property
    def causal(self) -> bool:
        """Whether no position of a sequence can influence an earlier one; what a language model needs."""
        return all(OPERATORS[n.op].causal(dict(n.params)) for n in self._order)

    def __deepcopy__(self, memo: dict[int, Any]) -> BlueprintIR:
        return self  # immutable; a mapping proxy could be neither copied nor pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return BlueprintIR, (dict(self.nodes), self.output, self.layouts, self.schema)

    def __eq__(self, other: object) -> bool:
        return self._canonical == other._canonical if isinstance(other, BlueprintIR) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._canonical)

    @cached_property
    def _sorted(self) -> tuple[str, ...]:
        """Names of what the output needs, inputs first; the one place where the graph, dead nodes too, is checked."""
        order, needed = check_graph(self.nodes, self.output, self.layouts, self.schema), {self.output}
        for name in reversed(order):
            if name in needed:
                needed.update(self.nodes[name].inputs)
        return tuple(name for name in order if name in needed)

    @cached_property
    def _order(self) -> tuple[CanonicalNode, ...]:
        names, vertices = self._live()
        try:
            found = canonical_order(vertices)
        except TooSymmetric:
            raise BlueprintError("", "too many interchangeable parts to order", "fewer, or different ones") from None
        place = {number: str(index) for index, number in enumerate(found)}
        nodes = []
        for number in found:
            inputs = [place[i] for i in vertices[number].inputs]
            if vertices[number].commutes:
                inputs.sort(key=int)
            source = names[number]
            op = self.nodes[source].op
            nodes.append(CanonicalNode(place[number], op, self.nodes[source].normal_params(), tuple(inputs), source))
        return tuple(nodes)

    def _live(self) -> tuple[list[str], list[Vertex]]:
        """Merge equal parameter-free nodes; return the names and the vertices of the rest, numbered alike."""
        number: dict[str, int] = {}
        merged: dict[tuple[str, tuple[int, ...]], int] = {}
        names: list[str] = []
        vertices: list[Vertex] = []
        for name in self._sorted:
            this = self.nodes[name]
            operator = OPERATORS[this.op]
            inputs = tuple(number[i] for i in this.inputs)
            if operator.commutes:
                inputs = tuple(sorted(inputs))
            label = canonical.dumps([this.op, this.normal_params()]).decode("ascii")
            if not operator.parametrised and (label, inputs) in merged:
                number[name] = merged[label, inputs]
                continue
            number[name] = merged[label, inputs] = len(vertices)
            names.append(name)
            vertices.append(Vertex(label, inputs, operator.commutes))
        return names, vertices

    @cached_property
    def _canonical(self) -> bytes:
        order = self._order
        nodes = {n.name: {"op": n.op, "inputs": list(n.inputs), "params": dict(n.params)} for n in order}
        layouts = sorted(str(layout) for layout in self.layouts)
        return canonical.dumps({"schema": self.schema, "layouts": layouts, "nodes": nodes, "output": order[-1].name})

    def _site(self, name: str, interface: Interface, flow: Mapping[str, Signal]) -> Site:
        this = self.nodes[name]
        params: dict[str, Value] = {}
        for key, value in this.normal_params():
            try:
                params[key] = resolve(value, interface.width)
            except ValueError as problem:
                allowed = f"a whole number from 1 to {MAX_WIDTH}"
                raise BlueprintError(name, f"parameter {key}: {problem}", allowed) from None
        return Site(name, interface.layout, params, tuple(flow[i] for i in this.inputs))

    def _flow(self, interface: Interface) -> dict[str, Signal]:
        """Return what every node passes on; dead ones are left out, so that equal designs fit the same slots."""
        order = self._sorted
        if interface.layout not in self.layouts:
            layouts = ", ".join(self.layouts)
            raise BlueprintError("", f"it is not meant for layout {interface.layout.value}", layouts)
        flow: dict[str, Signal] = {}
        for name in order:
            if self.nodes[name].op == "input":
                flow[name] = Signal(interface.width, interface.trailing)
                continue
            site = self._site(name, interface, flow)
            signal = OPERATORS[self.nodes[name].op].shape(site)
            if signal.width > MAX_WIDTH:
                raise site.refuse(f"its output would be {signal.width} wide", f"at most {MAX_WIDTH}")
            if signal.width * signal.positions > MAX_ELEMENTS:
                raise site.refuse("its output would be too large for one sample", f"at most {MAX_ELEMENTS} numbers")
            flow[name] = signal
        return flow

    def _steps(self, interface: Interface) -> tuple[Step, ...]:
        flow = self._flow(interface)
        found, wanted = flow[self.output], Signal(interface.width, interface.trailing)
        if found != wanted:
            shape = interface.layout.sample_shape(found.width, found.trailing)
            raise BlueprintError(
                self.output, f"the output has shape {shape}", f"the input's shape {interface.sample_shape}"
            )
        steps, count = [], 0
        for n in self._order:
            site, operator = self._site(n.source, interface, flow), OPERATORS[n.op]
            specs = tuple(
                ParameterSpec(f"{n.name}.{name}", dims, init) for name, dims, init in operator.parameters(site)
            )
            count += sum(math.prod(spec.shape) for spec in specs)
            if count > MAX_PARAMETERS:
                raise site.refuse(f"the blueprint has {count} parameters up to here", f"at most {MAX_PARAMETERS}")
            shapes = tuple(interface.layout.sample_shape(s.width, s.trailing) for s in site.inputs)
            shape = interface.layout.sample_shape(flow[n.source].width, flow[n.source].trailing)
            steps.append(Step(n.name, n.op, dict(site.params), n.inputs, shapes, shape, specs, operator.macs(site)))
        return tuple(steps)
