"""How each operator of a blueprint shapes, initialises and counts: one small function per rule.

Shape rules return the output signal or raise BlueprintError; parameter rules return (name, shape, initialiser) of each
learned tensor; work rules return the multiply-accumulates of one sample; zero rules say whether the output is exactly 0
at start, given which inputs are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from leyline.domains import Value
from leyline.errors import BlueprintError
from leyline.interface import MAX_ELEMENTS, MAX_WIDTH, Layout

MAX_SCORES = 4 * MAX_ELEMENTS
"""Largest number of attention scores (heads × positions²) of one sample."""


@dataclass(frozen=True)
class Signal:
    """What flows along an edge: features and the sizes of the position dimensions."""

    width: int
    trailing: tuple[int, ...]

    @property
    def positions(self) -> int:
        """How many positions one sample has."""
        return math.prod(self.trailing)


@dataclass(frozen=True)
class Site:
    """An operator at one node, with its parameters as plain numbers (slot-bound widths resolved) and its inputs."""

    node: str
    layout: Layout
    params: Mapping[str, Value]
    inputs: tuple[Signal, ...]

    @property
    def source(self) -> Signal:
        """The first input."""
        return self.inputs[0]

    def integer(self, name: str) -> int:
        """Return an integer parameter."""
        return int(self.params[name])

    def weights(self, default: str) -> str:
        """Return the initialiser of the main weights: `default`, or zeros if the node asks for them."""
        return "zeros" if self.params["init"] == "zeros" else default

    def refuse(self, problem: str, allowed: str | None = None) -> BlueprintError:
        """Make the error that names this node."""
        return BlueprintError(self.node, problem, allowed)


Parameters = tuple[tuple[str, tuple[int, ...], str], ...]


def same(site: Site) -> Signal:
    """The output has the shape of the first input."""
    return site.source


def no_parameters(site: Site) -> Parameters:
    """Nothing is learned."""
    return ()


def no_work(site: Site) -> int:
    """No matrix product, convolution or attention."""
    return 0


def zero_through(zero: tuple[bool, ...], params: Mapping[str, Value]) -> bool:
    """Zero in, zero out: for everything linear without a learned offset at its start, and for normalisations."""
    return zero[0]


def zero_or_zeroed(zero: tuple[bool, ...], params: Mapping[str, Value]) -> bool:
    """Zero for a zero input, or because the weights start at zero."""
    return zero[0] or params["init"] == "zeros"


def biased(site: Site, weight: tuple[int, ...], out: int) -> Parameters:
    """A weight and, if the node asks for one, an offset per output feature."""
    main = ("weight", weight, site.weights("kaiming_uniform"))
    return (main, ("bias", (out,), "zeros")) if site.params["bias"] else (main,)


def linear_parameters(site: Site) -> Parameters:
    """Weight (out, in)."""
    out = site.integer("out")
    return biased(site, (out, site.source.width), out)


def linear_macs(site: Site) -> int:
    """positions · in · out."""
    return site.source.positions * site.source.width * site.integer("out")


def out_width(site: Site) -> Signal:
    """The width asked for, at the same positions."""
    return Signal(site.integer("out"), site.source.trailing)


def group_count(site: Site) -> int:
    """How many groups a convolution has; depthwise is one per input feature."""
    return site.source.width if site.params["groups"] == "depthwise" else site.integer("groups")


def conv_shape(site: Site) -> Signal:
    """The width asked for; the groups must divide both widths."""
    groups, width, out = group_count(site), site.source.width, site.integer("out")
    if width % groups or out % groups:
        raise site.refuse(
            f"{groups} groups do not divide input width {width} and output width {out}", "a divisor of both"
        )
    return Signal(out, site.source.trailing)


def conv_parameters(site: Site) -> Parameters:
    """Weight (out, in / groups, kernel…)."""
    out, kernel = site.integer("out"), (site.integer("kernel"),) * site.layout.trailing_rank
    return biased(site, (out, site.source.width // group_count(site), *kernel), out)


def conv_macs(site: Site) -> int:
    """positions · out · in / groups · kernel^rank."""
    taps: int = site.integer("kernel") ** site.layout.trailing_rank
    return site.source.positions * site.integer("out") * (site.source.width // group_count(site)) * taps


def causal_conv_parameters(site: Site) -> Parameters:
    """Weight (C, 1, kernel)."""
    return biased(site, (site.source.width, 1, site.integer("kernel")), site.source.width)


def causal_conv_macs(site: Site) -> int:
    """positions · C · kernel."""
    return site.source.positions * site.source.width * site.integer("kernel")


def attention_width(site: Site) -> int:
    """Width of all heads together."""
    return site.integer("heads") * site.integer("head_dim")


def attention_shape(site: Site) -> Signal:
    """The input's shape, if the heads and the scores are not too many."""
    if attention_width(site) > MAX_WIDTH:
        raise site.refuse(f"heads × head_dim is {attention_width(site)}", f"at most {MAX_WIDTH}")
    if site.integer("heads") * site.source.positions**2 > MAX_SCORES:
        raise site.refuse(f"attention over {site.source.positions} positions is too large", "a shorter sequence")
    return site.source


def attention_parameters(site: Site) -> Parameters:
    """Stacked query, key and value projections, and the output projection."""
    inner, width = attention_width(site), site.source.width
    # Only the output projection is zeroed: zeroing both would leave neither with a gradient.
    return (
        ("qkv_weight", (3 * inner, width), "xavier_uniform"),
        ("out_weight", (width, inner), site.weights("xavier_uniform")),
    )


def attention_macs(site: Site) -> int:
    """T·C·3D for the projections in, 2·T²·D for scores and values, T·D·C for the projection out; D is all heads."""
    steps, inner = site.source.positions, attention_width(site)
    return steps * site.source.width * 3 * inner + 2 * steps * steps * inner + steps * inner * site.source.width


def norm_parameters(site: Site) -> Parameters:
    """A gain and an offset per feature."""
    return (*gain_parameters(site), ("bias", (site.source.width,), "zeros"))


def gain_parameters(site: Site) -> Parameters:
    """A gain per feature."""
    return (("weight", (site.source.width,), site.weights("ones")),)


def group_norm_shape(site: Site) -> Signal:
    """The input's shape; the groups must divide the width and hold more than one value."""
    groups, width = site.integer("groups"), site.source.width
    if width % groups:
        raise site.refuse(f"{groups} groups do not divide width {width}", "a divisor of the width")
    if width * site.source.positions == groups:
        raise site.refuse("each group has a single value, which is always normalised to 0", "fewer groups")
    return site.source


def equal_shape(site: Site) -> Signal:
    """The shape that both inputs have."""
    first, second = site.inputs
    if first != second:
        shapes = (site.layout.sample_shape(s.width, s.trailing) for s in site.inputs)
        raise site.refuse(f"its inputs have shapes {' and '.join(map(str, shapes))}", "equal shapes")
    return first


def concat_shape(site: Site) -> Signal:
    """The widths added up, at the same positions."""
    if len({signal.trailing for signal in site.inputs}) > 1:
        found = " and ".join(str(signal.trailing) for signal in site.inputs)
        raise site.refuse(f"its inputs have position sizes {found}", "equal sizes; only the widths may differ")
    return Signal(sum(signal.width for signal in site.inputs), site.source.trailing)


def glu_shape(site: Site) -> Signal:
    """Half the width."""
    if site.source.width % 2:
        raise site.refuse(f"input width {site.source.width} cannot be halved", "an even width")
    return Signal(site.source.width // 2, site.source.trailing)


def pool_shape(site: Site) -> Signal:
    """Every position size divided by the factor."""
    factor = site.integer("factor")
    if any(size % factor for size in site.source.trailing):
        raise site.refuse(f"factor {factor} does not divide position sizes {site.source.trailing}", "a common divisor")
    return Signal(site.source.width, tuple(size // factor for size in site.source.trailing))


def upsample_shape(site: Site) -> Signal:
    """Every position size times the factor."""
    return Signal(site.source.width, tuple(size * site.integer("factor") for size in site.source.trailing))


def global_shape(site: Site) -> Signal:
    """The same width at one position."""
    return Signal(site.source.width, (1,) * len(site.source.trailing))


def broadcast_shape(site: Site) -> Signal:
    """The first input's width at the second input's positions."""
    small, like = site.inputs
    if small.positions != 1:
        raise site.refuse(f"its first input has position sizes {small.trailing}", "all 1, as after global_pool")
    return Signal(small.width, like.trailing)


def shift_shape(site: Site) -> Signal:
    """The input's shape, if anything of it is left."""
    if site.integer("steps") >= site.source.positions:
        raise site.refuse(
            f"{site.integer('steps')} steps leave nothing of {site.source.positions} positions", "fewer steps"
        )
    return site.source
