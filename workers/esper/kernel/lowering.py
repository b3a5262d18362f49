"""Lower a blueprint to PyTorch calls: the meaning of every operator, and the reference for all compiled kernels.

The lowering is a plain function of input and parameters. It holds no tensor, so all copies of a kernel share one; it
runs in any precision and can be traced or exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from leyline.blueprint import BlueprintIR
from leyline.interface import Interface, Layout
from leyline.operators import EPSILON

__all__ = ["Lowering"]

Inputs = Sequence[Tensor]
Call = Callable[[Inputs, Inputs], Tensor]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


@dataclass(frozen=True)
class _Site:
    """One node to lower: resolved parameters, layout, and the shapes of its inputs' samples and of its output's."""

    params: Mapping[str, Any]
    layout: Layout
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]

    @property
    def features(self) -> int:
        """Dimension of the features in a batched tensor."""
        return 2 if self.layout.features_last else 1

    @property
    def positions(self) -> tuple[int, ...]:
        """Dimensions of the positions in a batched tensor."""
        rank = self.layout.trailing_rank
        return tuple(range(1, 1 + rank)) if self.layout.features_last else tuple(range(2, 2 + rank))

    @property
    def width(self) -> int:
        """Features of the first input."""
        return self.inputs[0][self.features - 1]

    @property
    def spread(self) -> tuple[int, ...]:
        """Shape in which a vector of features multiplies a batched tensor."""
        return (-1,) if self.features == len(self.inputs[0]) else (-1, *(1 for _ in self.positions))


def _features_last(site: _Site, apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if site.features == x.dim() - 1:
        return apply(x)
    return apply(x.movedim(site.features, -1)).movedim(-1, site.features)


def _linear(site: _Site) -> Call:
    if site.features == len(site.inputs[0]):
        return lambda x, p: F.linear(x[0], p[0], p[1] if len(p) > 1 else None)
    conv = F.conv1d if site.layout is Layout.IMAGE1D else F.conv2d
    ones = (1,) * site.layout.trailing_rank
    # A convolution with one tap: the features are not the last dimension, and moving them would copy.
    return lambda x, p: conv(x[0], p[0].reshape(*p[0].shape, *ones), p[1] if len(p) > 1 else None)


def _conv(site: _Site) -> Call:
    conv = F.conv1d if site.layout is Layout.IMAGE1D else F.conv2d
    groups = site.width if site.params["groups"] == "depthwise" else int(site.params["groups"])
    dilation = int(site.params["dilation"])
    padding = dilation * (int(site.params["kernel"]) // 2)

    def call(x: Inputs, p: Inputs) -> Tensor:
        bias = p[1] if len(p) > 1 else None
        return conv(x[0], p[0], bias, padding=padding, dilation=dilation, groups=groups)

    return call


def _before(x: Tensor, steps: int) -> Tensor:
    """Put zeros before a sequence. ``F.pad`` would fix the batch where the lowering is traced with a symbol for it."""
    return torch.cat((x.new_zeros(x.shape[0], steps, x.shape[2]), x), 1)


def _causal_conv(site: _Site) -> Call:
    dilation, width = int(site.params["dilation"]), site.width
    past = dilation * (int(site.params["kernel"]) - 1)

    def call(x: Inputs, p: Inputs) -> Tensor:
        bias = p[1] if len(p) > 1 else None
        return F.conv1d(_before(x[0], past).transpose(1, 2), p[0], bias, dilation=dilation, groups=width).transpose(
            1, 2
        )

    return call


def _attention(site: _Site) -> Call:
    heads, size, causal = int(site.params["heads"]), int(site.params["head_dim"]), bool(site.params["causal"])
    steps = site.inputs[0][0]

    def call(x: Inputs, p: Inputs) -> Tensor:
        qkv = F.linear(x[0], p[0]).reshape(-1, steps, 3, heads, size).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=causal)
        return F.linear(mixed.transpose(1, 2).reshape(-1, steps, heads * size), p[1])

    return call


def _token_shift(site: _Site) -> Call:
    steps = int(site.params["steps"])
    return lambda x, p: _before(x[0][:, :-steps], steps)


def _layer_norm(site: _Site) -> Call:
    shape = (site.width,)
    return lambda x, p: _features_last(site, lambda t: F.layer_norm(t, shape, p[0], p[1], EPSILON), x[0])


def _rms_norm(site: _Site) -> Call:
    shape = (site.width,)
    return lambda x, p: _features_last(site, lambda t: F.rms_norm(t, shape, p[0], EPSILON), x[0])


def _group_norm(site: _Site) -> Call:
    groups = int(site.params["groups"])
    return lambda x, p: F.group_norm(x[0], groups, p[0], p[1], EPSILON)


def _act(site: _Site) -> Call:
    fn = _ACTIVATIONS[site.params["fn"]]
    return lambda x, p: fn(x[0])


def _glu(site: _Site) -> Call:
    fn, dim = _ACTIVATIONS[site.params["fn"]], site.features

    def call(x: Inputs, p: Inputs) -> Tensor:
        value, gate = x[0].chunk(2, dim)
        return value * fn(gate)

    return call


def _concat(site: _Site) -> Call:
    dim = site.features
    return lambda x, p: torch.cat(list(x), dim)


def _scale(site: _Site) -> Call:
    factor = 2.0 ** int(site.params["log2"])
    return lambda x, p: x[0] * factor


def _channel_scale(site: _Site) -> Call:
    shape = site.spread
    return lambda x, p: x[0] * p[0].reshape(shape)


def _avg_pool(site: _Site) -> Call:
    factor, pool = int(site.params["factor"]), F.avg_pool1d if site.layout is Layout.IMAGE1D else F.avg_pool2d
    return lambda x, p: pool(x[0], factor)


def _upsample(site: _Site) -> Call:
    factor = int(site.params["factor"])
    if site.layout is Layout.IMAGE1D:
        return lambda x, p: x[0].unsqueeze(3).expand(-1, -1, -1, factor).flatten(2, 3)
    return lambda x, p: (
        x[0].unsqueeze(3).unsqueeze(5).expand(-1, -1, -1, factor, -1, factor).flatten(4, 5).flatten(2, 3)
    )


def _global_pool(site: _Site) -> Call:
    dims = site.positions
    return lambda x, p: x[0].mean(dims, keepdim=True)


def _broadcast(site: _Site) -> Call:
    sizes = [-1, *site.output]
    sizes[site.features] = -1
    return lambda x, p: x[0].expand(sizes)


_LOWER: Mapping[str, Callable[[_Site], Call]] = {
    "linear": _linear,
    "conv1d": _conv,
    "conv2d": _conv,
    "causal_conv": _causal_conv,
    "token_shift": _token_shift,
    "attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "act": _act,
    "glu": _glu,
    "add": lambda site: lambda x, p: x[0] + x[1],
    "mul": lambda site: lambda x, p: x[0] * x[1],
    "concat": _concat,
    "scale": _scale,
    "channel_scale": _channel_scale,
    "avg_pool": _avg_pool,
    "upsample": _upsample,
    "global_pool": _global_pool,
    "broadcast": _broadcast,
}


@dataclass(frozen=True)
class _Step:
    call: Call
    inputs: tuple[int, ...]
    parameters: tuple[int, ...]
    last: tuple[int, ...]


class Lowering:
    """A blueprint at one interface as a function ``(u, parameters) -> s(u)``; immutable and shared."""

    def __init__(self, steps: Sequence[_Step], source: int, output: int) -> None:
        self._steps = tuple(steps)
        self._source = source
        self._output = output

    @staticmethod
    def of(ir: BlueprintIR, interface: Interface) -> Lowering:
        """Lower ``ir`` for ``interface``; the result of the last few calls is kept.

        Raises:
            leyline.errors.BlueprintError: ``ir`` does not fit ``interface``.
        """
        return _lower(ir.canonical(), interface)

    def __call__(self, u: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Compute the branch; ``parameters`` in the blueprint's order, all of one dtype with ``u``."""
        values: dict[int, Tensor] = {self._source: u}
        for index, step in enumerate(self._steps):
            if index == self._source:
                continue
            values[index] = step.call([values[i] for i in step.inputs], [parameters[i] for i in step.parameters])
            for done in step.last:
                del values[done]  # free activations that the backward pass does not hold
        return values[self._output]

    def __deepcopy__(self, memo: dict[int, Any]) -> Lowering:
        return self


@lru_cache(maxsize=256)
def _lower(recipe: bytes, interface: Interface) -> Lowering:
    nodes = BlueprintIR.from_json(recipe).steps(interface)
    place = {node.name: index for index, node in enumerate(nodes)}
    last = {source: index for index, node in enumerate(nodes) for source in node.inputs}
    steps, taken, source = [], 0, 0
    for index, node in enumerate(nodes):
        numbers = tuple(range(taken, taken + len(node.parameters)))
        taken += len(numbers)
        if node.op == "input":
            source = index
            call: Call = _source
        else:
            call = _LOWER[node.op](_Site(node.params, interface.layout, node.input_shapes, node.shape))
        done = tuple(place[name] for name in sorted(set(node.inputs)) if last[name] == index)
        steps.append(_Step(call, tuple(place[name] for name in node.inputs), numbers, done))
    return Lowering(steps, source, len(steps) - 1)


def _source(x: Inputs, p: Inputs) -> Tensor:
    raise AssertionError("the input is given, not computed")
