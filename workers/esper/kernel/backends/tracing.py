"""Trace a lowered blueprint's forward and backward together and cut the joint graph in two.

Runs only where kernels are built: it imports PyTorch's tracer and partitioner, which the training process never does.

The joint function takes the parameters, the input and the output's gradient, and returns the output and all gradients.
It is traced on fake tensors whose batch dimension is a symbol (``torch.func.vjp`` would fix it), decomposed into the
operators Inductor compiles, and cut by the min-cut partitioner of Chen et al.-style rematerialisation in functorch: it
decides what the forward half keeps and what the backward half computes again.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from esper.kernel.lowering import Lowering

__all__ = ["Halves", "trace_halves"]

aten = torch.ops.aten
_SAME = (aten.detach.default, aten.alias.default)
_VIEWS = (aten.permute.default, aten.t.default, aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim)


@dataclass(frozen=True)
class Halves:
    """The two graphs. ``backward_inputs`` names where each comes from, as in ``PairCall``; ``saved`` are metas."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    backward_inputs: list[str]
    saved: list[Any]


def trace_halves(lowering: Lowering, parameters: Sequence[Tensor], u: Tensor, *, dynamic: bool) -> Halves:
    """Trace and cut; ``u`` is an example batch, whose first dimension becomes a symbol when ``dynamic``."""
    count = len(parameters)
    joint, fakes = _trace_joint(lowering, parameters, u, dynamic)
    _erase(joint, _SAME)
    for index, node in enumerate(_placeholders(joint)):
        node.name = node.target = f"primals_{index + 1}" if index <= count else "tangents_1"
    joint.graph.eliminate_dead_code()
    joint.recompile()
    forward, backward = min_cut_rematerialization_partition(joint, fakes, num_fwd_outputs=1)
    _recompute_sizes(backward)
    _recompute_views(forward, backward)
    names = {f"primals_{i + 1}": f"p{i}" for i in range(count)} | {f"primals_{count + 1}": "u", "tangents_1": "t"}
    kept = _drop_passed_through(forward, names)
    names |= {node.name: f"s{i}" for i, node in enumerate(kept)}
    for half in (forward, backward):
        _allow_strides(half)
    sources = [names[str(node.target)] for node in _placeholders(backward)]
    return Halves(forward, backward, sources, [node.meta["val"] for node in kept])


def _trace_joint(
    lowering: Lowering, parameters: Sequence[Tensor], u: Tensor, dynamic: bool
) -> tuple[fx.GraphModule, list[Tensor]]:
    count = len(parameters)

    def joint(*flat: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in flat[: count + 1]]
        with torch.enable_grad():
            out = lowering(leaves[count], leaves[:count])
        gradients = torch.autograd.grad(out, leaves, flat[count + 1], allow_unused=True, materialize_grads=True)
        return (out.detach(), *gradients)

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def fake(tensor: Tensor, batched: bool) -> Tensor:
        sizes = [DimDynamic.DYNAMIC if batched and dim == 0 else DimDynamic.STATIC for dim in range(tensor.dim())]
        return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(sizes))

    fakes = [fake(p.detach(), False) for p in parameters]
    fakes += [fake(u, dynamic), fake(torch.ones_like(u), dynamic)]
    with mode:
        graph = make_fx(joint, tracing_mode="real", decomposition_table=select_decomp_table())(*fakes)
    return graph, fakes


def _placeholders(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _outputs(module: fx.GraphModule) -> fx.Node:
    nodes: list[fx.Node] = list(module.graph.nodes)
    return nodes[-1]


def _erase(module: fx.GraphModule, targets: Sequence[Any]) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in targets:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _recompute_sizes(backward: fx.GraphModule) -> None:
    """Read symbolic sizes off the gradient's shape instead of taking them as inputs: a half takes tensors only."""
    inputs = _placeholders(backward)
    sizes = [node for node in inputs if isinstance(node.meta.get("val"), torch.SymInt)]
    if not sizes:
        return
    tangent = next(node for node in inputs if str(node.target).startswith("tangents"))
    batch = tangent.meta["val"].shape[0]
    for node in sizes:
        wanted = node.meta["val"].node
        times = int(wanted.hint) // int(batch.node.hint)
        if wanted.expr != times * batch.node.expr:
            raise RuntimeError(f"the backward half needs the size {wanted.expr}, which is no multiple of the batch")
        with backward.graph.inserting_after(inputs[-1]):
            size = backward.graph.call_function(aten.sym_size.int, (tangent, 0))
        size.meta["val"] = batch
        if times != 1:
            with backward.graph.inserting_after(size):
                size = backward.graph.call_function(operator.mul, (size, times))
            size.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(size)
        backward.graph.erase_node(node)
    backward.recompile()


def _recompute_views(forward: fx.GraphModule, backward: fx.GraphModule) -> None:
    """Take a transposed weight as the weight: views of inputs cost nothing and must not be counted as saved."""
    by_name = {node.name: node for node in forward.graph.nodes}
    for node in _placeholders(backward):
        chain = []
        source = by_name.get(node.name)
        while source is not None and source.op == "call_function" and source.target in _VIEWS:
            chain.append(source)
            source = source.args[0] if isinstance(source.args[0], fx.Node) else None
        if not chain or source is None or source.op != "placeholder":
            continue
        inputs = _placeholders(backward)
        base = next((other for other in inputs if other.name == source.name), None)
        if base is None:
            with backward.graph.inserting_before(inputs[0]):
                base = backward.graph.placeholder(source.name)
            base.meta = dict(source.meta)
        current = base
        first = next(other for other in backward.graph.nodes if other.op != "placeholder")
        with backward.graph.inserting_before(first):
            for view in reversed(chain):
                current = backward.graph.call_function(view.target, (current, *view.args[1:]), view.kwargs)
                current.meta = dict(view.meta)
        node.replace_all_uses_with(current)
        backward.graph.erase_node(node)
    backward.graph.lint()
    backward.recompile()


def _drop_passed_through(forward: fx.GraphModule, names: dict[str, str]) -> list[fx.Node]:
    """Return from the forward half only the output and what it made itself and the backward half takes."""
    output = _outputs(forward)
    results: Any = output.args[0]
    made, *saved = results
    kept = [
        node
        for node in saved
        if isinstance(node, fx.Node) and node.op != "placeholder" and not isinstance(node.meta["val"], torch.SymInt)
    ]
    kept = [node for node in kept if not _is_input_view(node)]
    output.args = ((made, *kept),)
    forward.graph.eliminate_dead_code()
    forward.recompile()
    return kept


def _is_input_view(node: fx.Node) -> bool:
    while node.op == "call_function" and node.target in _VIEWS and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node.op == "placeholder"


def _allow_strides(module: fx.GraphModule) -> None:
    """Let every view copy when it must: strides at run time may differ from the traced ones (attention's do)."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is aten.view.default:
            node.target = aten.reshape.default
    module.recompile()
