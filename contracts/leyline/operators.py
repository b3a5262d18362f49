"""The closed vocabulary of blueprints: for each operator its parameters, shapes, weights and work.

This table is the search space and the security boundary at once: nothing that is not in it can be run.
Shapes are of one sample, without the batch. All normalisations use `EPSILON` and keep no running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from leyline.domains import BOOLEAN, WIDTH, Choice, Either, Integer, Param, Value
from leyline.errors import BlueprintError
from leyline.interface import MAX_ELEMENTS, MAX_WIDTH, Layout

EPSILON = 1e-5
"""Added to variances and mean squares by every normalisation."""

INITIALISERS = ("zeros", "ones", "kaiming_uniform", "xavier_uniform", "normal_0.02")


@dataclass(frozen=True)
class ParameterSpec:
    """One learned tensor: a name such as `3.weight`, its shape and its initialiser.

    With fan_in = shape[1]·prod(shape[2:]) and fan_out = shape[0]·prod(shape[2:]): `kaiming_uniform` is U(±√(6/fan_in))
    (He et al. 2015, gain √2), `xavier_uniform` is U(±√(6/(fan_in+fan_out))) (Glorot & Bengio 2010), `normal_0.02` is
    normal with that standard deviation.
    """

    name: str
    shape: tuple[int, ...]
    init: str


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
ZeroRule = Callable[[tuple[bool, ...], Mapping[str, Value]], bool]


def _same(site: Site) -> Signal:
    return site.source


def _no_parameters(site: Site) -> Parameters:
    return ()


def _no_work(site: Site) -> int:
    return 0


def _zero_through(zero: tuple[bool, ...], params: Mapping[str, Value]) -> bool:
    """Zero in, zero out: for everything linear without a learned offset at its start, and for normalisations."""
    return zero[0]


def _zero_or_zeroed(zero: tuple[bool, ...], params: Mapping[str, Value]) -> bool:
    return zero[0] or params["init"] == "zeros"


@dataclass(frozen=True)
class Operator:
    """One word of the vocabulary.

    `least` and `most`: number of inputs. `shape`: output signal, or BlueprintError. `parameters`: (name, shape,
    initialiser) of each learned tensor. `macs`: multiply-accumulates of its matrix products, convolutions and
    attention for one sample. `zero`: whether the output is exactly 0 at start, given which inputs are. `causal`:
    whether no position of a sequence sees a later one.
    """

    summary: str
    least: int = 1
    most: int = 1
    params: tuple[Param, ...] = ()
    layouts: tuple[Layout, ...] = tuple(Layout)
    shape: Callable[[Site], Signal] = _same
    parameters: Callable[[Site], Parameters] = _no_parameters
    macs: Callable[[Site], int] = _no_work
    zero: ZeroRule = _zero_through
    causal: Callable[[Mapping[str, Value]], bool] = lambda params: True
    commutes: bool = False

    @property
    def parametrised(self) -> bool:
        """Whether it owns learned tensors."""
        return self.parameters is not _no_parameters


_IMAGES = (Layout.IMAGE1D, Layout.IMAGE2D)
_POSITIONED = (Layout.SEQUENCE, *_IMAGES)
_INIT = Param("init", Choice(("default", "zeros")), "default")
_BIAS = Param("bias", BOOLEAN, True)
_KERNEL = Param("kernel", Integer(1, 31, odd=True))
_DILATION = Param("dilation", Integer(1, 64), 1)
_FACTOR = Param("factor", Integer(2, 16))
_ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")


def _biased(site: Site, weight: tuple[int, ...], out: int) -> Parameters:
    main = ("weight", weight, site.weights("kaiming_uniform"))
    return (main, ("bias", (out,), "zeros")) if site.params["bias"] else (main,)


def _linear_parameters(site: Site) -> Parameters:
    out = site.integer("out")
    return _biased(site, (out, site.source.width), out)


def _linear_macs(site: Site) -> int:
    return site.source.positions * site.source.width * site.integer("out")


def _out_width(site: Site) -> Signal:
    return Signal(site.integer("out"), site.source.trailing)


def _groups(site: Site) -> int:
    return site.source.width if site.params["groups"] == "depthwise" else site.integer("groups")


def _conv_shape(site: Site) -> Signal:
    groups, width, out = _groups(site), site.source.width, site.integer("out")
    if width % groups or out % groups:
        raise site.refuse(
            f"{groups} groups do not divide input width {width} and output width {out}", "a divisor of both"
        )
    return Signal(out, site.source.trailing)


def _conv_parameters(site: Site) -> Parameters:
    out, kernel = site.integer("out"), (site.integer("kernel"),) * site.layout.trailing_rank
    return _biased(site, (out, site.source.width // _groups(site), *kernel), out)


def _conv_macs(site: Site) -> int:
    taps: int = site.integer("kernel") ** site.layout.trailing_rank
    return site.source.positions * site.integer("out") * (site.source.width // _groups(site)) * taps


def _causal_conv_parameters(site: Site) -> Parameters:
    return _biased(site, (site.source.width, 1, site.integer("kernel")), site.source.width)


def _causal_conv_macs(site: Site) -> int:
    return site.source.positions * site.source.width * site.integer("kernel")


def _attention_width(site: Site) -> int:
    return site.integer("heads") * site.integer("head_dim")


def _attention_shape(site: Site) -> Signal:
    if _attention_width(site) > MAX_WIDTH:
        raise site.refuse(f"heads × head_dim is {_attention_width(site)}", f"at most {MAX_WIDTH}")
    if site.integer("heads") * site.source.positions**2 > MAX_ELEMENTS * 4:
        raise site.refuse(f"attention over {site.source.positions} positions is too large", "a shorter sequence")
    return site.source


def _attention_parameters(site: Site) -> Parameters:
    inner, width = _attention_width(site), site.source.width
    # Only the output projection is zeroed: zeroing both would leave neither with a gradient.
    return (
        ("qkv_weight", (3 * inner, width), "xavier_uniform"),
        ("out_weight", (width, inner), site.weights("xavier_uniform")),
    )


def _attention_macs(site: Site) -> int:
    steps, inner = site.source.positions, _attention_width(site)
    return steps * site.source.width * 3 * inner + 2 * steps * steps * inner + steps * inner * site.source.width


def _norm_parameters(site: Site) -> Parameters:
    return (*_gain_parameters(site), ("bias", (site.source.width,), "zeros"))


def _gain_parameters(site: Site) -> Parameters:
    return (("weight", (site.source.width,), site.weights("ones")),)


def _group_norm_shape(site: Site) -> Signal:
    groups, width = site.integer("groups"), site.source.width
    if width % groups:
        raise site.refuse(f"{groups} groups do not divide width {width}", "a divisor of the width")
    if width * site.source.positions == groups:
        raise site.refuse("each group has a single value, which is always normalised to 0", "fewer groups")
    return site.source


def _equal_shape(site: Site) -> Signal:
    first, second = site.inputs
    if first != second:
        shapes = (site.layout.sample_shape(s.width, s.trailing) for s in site.inputs)
        raise site.refuse(f"its inputs have shapes {' and '.join(map(str, shapes))}", "equal shapes")
    return first


def _concat_shape(site: Site) -> Signal:
    if len({signal.trailing for signal in site.inputs}) > 1:
        found = " and ".join(str(signal.trailing) for signal in site.inputs)
        raise site.refuse(f"its inputs have position sizes {found}", "equal sizes; only the widths may differ")
    return Signal(sum(signal.width for signal in site.inputs), site.source.trailing)


def _glu_shape(site: Site) -> Signal:
    if site.source.width % 2:
        raise site.refuse(f"input width {site.source.width} cannot be halved", "an even width")
    return Signal(site.source.width // 2, site.source.trailing)


def _pool_shape(site: Site) -> Signal:
    factor = site.integer("factor")
    if any(size % factor for size in site.source.trailing):
        raise site.refuse(f"factor {factor} does not divide position sizes {site.source.trailing}", "a common divisor")
    return Signal(site.source.width, tuple(size // factor for size in site.source.trailing))


def _upsample_shape(site: Site) -> Signal:
    return Signal(site.source.width, tuple(size * site.integer("factor") for size in site.source.trailing))


def _global_shape(site: Site) -> Signal:
    return Signal(site.source.width, (1,) * len(site.source.trailing))


def _broadcast_shape(site: Site) -> Signal:
    small, like = site.inputs
    if small.positions != 1:
        raise site.refuse(f"its first input has position sizes {small.trailing}", "all 1, as after global_pool")
    return Signal(small.width, like.trailing)


def _shift_shape(site: Site) -> Signal:
    if site.integer("steps") >= site.source.positions:
        raise site.refuse(
            f"{site.integer('steps')} steps leave nothing of {site.source.positions} positions", "fewer steps"
        )
    return site.source


def _conv(rank: int, layout: Layout) -> Operator:
    return Operator(
        f"{rank}-d convolution, stride 1, zero-padded to the same size; weight (out, in/groups, kernel…)",
        params=(
            Param("out", WIDTH),
            _KERNEL,
            _DILATION,
            Param("groups", Either((Choice(("depthwise",)), WIDTH)), 1),
            _BIAS,
            _INIT,
        ),
        layouts=(layout,),
        shape=_conv_shape,
        parameters=_conv_parameters,
        macs=_conv_macs,
        zero=_zero_or_zeroed,
    )


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "input": Operator("the slot's tensor u", least=0, most=0, zero=lambda zero, params: False),
        "linear": Operator(
            "the same affine map of the features at every position; weight (out, in)",
            params=(Param("out", WIDTH), _BIAS, _INIT),
            shape=_out_width,
            parameters=_linear_parameters,
            macs=_linear_macs,
            zero=_zero_or_zeroed,
        ),
        "conv1d": _conv(1, Layout.IMAGE1D),
        "conv2d": _conv(2, Layout.IMAGE2D),
        "causal_conv": Operator(
            "depthwise convolution over this and earlier positions (zeros before the first); weight (C, 1, kernel)",
            params=(Param("kernel", Integer(1, 128)), _DILATION, _BIAS, _INIT),
            layouts=(Layout.SEQUENCE,),
            parameters=_causal_conv_parameters,
            macs=_causal_conv_macs,
            zero=_zero_or_zeroed,
        ),
        "token_shift": Operator(
            "every position takes the value `steps` positions earlier, zeros before the first",
            params=(Param("steps", Integer(1, 4096), 1),),
            layouts=(Layout.SEQUENCE,),
            shape=_shift_shape,
        ),
        "attention": Operator(
            "multi-head scaled dot-product self-attention, without biases; qkv_weight (3·heads·head_dim, C) "
            "stacks queries, keys and values, out_weight (C, heads·head_dim)",
            params=(Param("heads", Integer(1, 128)), Param("head_dim", WIDTH), Param("causal", BOOLEAN), _INIT),
            layouts=(Layout.SEQUENCE,),
            shape=_attention_shape,
            parameters=_attention_parameters,
            macs=_attention_macs,
            zero=_zero_or_zeroed,
            causal=lambda params: bool(params["causal"]),
        ),
        "layer_norm": Operator(
            "normalises the features of each position, with gain and offset",
            params=(_INIT,),
            parameters=_norm_parameters,
            zero=_zero_or_zeroed,
        ),
        "rms_norm": Operator(
            "divides the features of each position by their root mean square, with gain",
            params=(_INIT,),
            parameters=_gain_parameters,
            zero=_zero_or_zeroed,
        ),
        "group_norm": Operator(
            "normalises each group of features over all positions, with gain and offset per feature",
            params=(Param("groups", WIDTH), _INIT),
            layouts=(Layout.VECTOR, *_IMAGES),
            shape=_group_norm_shape,
            parameters=_norm_parameters,
            zero=_zero_or_zeroed,
        ),
        "act": Operator(
            "an activation, element by element (gelu is the exact form)",
            params=(Param("fn", Choice(_ACTIVATIONS)),),
            zero=lambda zero, params: zero[0] and params["fn"] != "sigmoid",
        ),
        "glu": Operator(
            "first half of the features times an activation of the second half",
            params=(Param("fn", Choice(_ACTIVATIONS), "sigmoid"),),
            shape=_glu_shape,
        ),
        "add": Operator(
            "sum of two equal shapes", 2, 2, shape=_equal_shape, zero=lambda zero, params: all(zero), commutes=True
        ),
        "mul": Operator(
            "product of two equal shapes", 2, 2, shape=_equal_shape, zero=lambda zero, params: any(zero), commutes=True
        ),
        "concat": Operator(
            "features side by side, in order", 2, 8, shape=_concat_shape, zero=lambda zero, params: all(zero)
        ),
        "scale": Operator("times 2^log2", params=(Param("log2", Integer(-16, 8)),)),
        "channel_scale": Operator(
            "a learned gain per feature, 1 at start; weight (C,)",
            params=(_INIT,),
            parameters=_gain_parameters,
            zero=_zero_or_zeroed,
        ),
        "avg_pool": Operator(
            "mean over blocks of `factor` positions in each direction",
            params=(_FACTOR,),
            layouts=_IMAGES,
            shape=_pool_shape,
        ),
        "upsample": Operator(
            "repeats every position `factor` times in each direction",
            params=(_FACTOR,),
            layouts=_IMAGES,
            shape=_upsample_shape,
        ),
        "global_pool": Operator(
            "mean over all positions, kept as one position",
            layouts=_POSITIONED,
            shape=_global_shape,
            causal=lambda params: False,
        ),
        "broadcast": Operator(
            "repeats a single position over the positions of the second input",
            2,
            2,
            layouts=_POSITIONED,
            shape=_broadcast_shape,
        ),
    }
)

__all__ = [
    "EPSILON",
    "INITIALISERS",
    "OPERATORS",
    "Operator",
    "ParameterSpec",
    "Signal",
    "Site",
]
