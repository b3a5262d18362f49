"""The closed vocabulary of blueprints: for each operator its parameters, shapes, weights and work.

This table is the search space and the security boundary at once: nothing that is not in it can be run.
Shapes are of one sample, without the batch. All normalisations use `EPSILON` and keep no running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from leyline import rules
from leyline.domains import BOOLEAN, WIDTH, Choice, Either, Integer, Param, Value
from leyline.interface import Layout
from leyline.rules import Parameters, Signal, Site

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


ZeroRule = Callable[[tuple[bool, ...], Mapping[str, Value]], bool]


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
    shape: Callable[[Site], Signal] = rules.same
    parameters: Callable[[Site], Parameters] = rules.no_parameters
    macs: Callable[[Site], int] = rules.no_work
    zero: ZeroRule = rules.zero_through
    causal: Callable[[Mapping[str, Value]], bool] = lambda params: True
    commutes: bool = False

    @property
    def parametrised(self) -> bool:
        """Whether it owns learned tensors."""
        return self.parameters is not rules.no_parameters


_IMAGES = (Layout.IMAGE1D, Layout.IMAGE2D)
_POSITIONED = (Layout.SEQUENCE, *_IMAGES)
_INIT = Param("init", Choice(("default", "zeros")), "default")
_BIAS = Param("bias", BOOLEAN, True)
_KERNEL = Param("kernel", Integer(1, 31, odd=True))
_DILATION = Param("dilation", Integer(1, 64), 1)
_FACTOR = Param("factor", Integer(2, 16))
_ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "identity")


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
        shape=rules.conv_shape,
        parameters=rules.conv_parameters,
        macs=rules.conv_macs,
        zero=rules.zero_or_zeroed,
    )


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "input": Operator("the slot's tensor u", least=0, most=0, zero=lambda zero, params: False),
        "linear": Operator(
            "the same affine map of the features at every position; weight (out, in)",
            params=(Param("out", WIDTH), _BIAS, _INIT),
            shape=rules.out_width,
            parameters=rules.linear_parameters,
            macs=rules.linear_macs,
            zero=rules.zero_or_zeroed,
        ),
        "conv1d": _conv(1, Layout.IMAGE1D),
        "conv2d": _conv(2, Layout.IMAGE2D),
        "causal_conv": Operator(
            "depthwise convolution over this and earlier positions (zeros before the first); weight (C, 1, kernel)",
            params=(Param("kernel", Integer(1, 128)), _DILATION, _BIAS, _INIT),
            layouts=(Layout.SEQUENCE,),
            parameters=rules.causal_conv_parameters,
            macs=rules.causal_conv_macs,
            zero=rules.zero_or_zeroed,
        ),
        "token_shift": Operator(
            "every position takes the value `steps` positions earlier, zeros before the first",
            params=(Param("steps", Integer(1, 4096), 1),),
            layouts=(Layout.SEQUENCE,),
            shape=rules.shift_shape,
        ),
        "attention": Operator(
            "multi-head scaled dot-product self-attention, without biases; qkv_weight (3·heads·head_dim, C) "
            "stacks queries, keys and values, out_weight (C, heads·head_dim)",
            params=(Param("heads", Integer(1, 128)), Param("head_dim", WIDTH), Param("causal", BOOLEAN), _INIT),
            layouts=(Layout.SEQUENCE,),
            shape=rules.attention_shape,
            parameters=rules.attention_parameters,
            macs=rules.attention_macs,
            zero=rules.zero_or_zeroed,
            causal=lambda params: bool(params["causal"]),
        ),
        "layer_norm": Operator(
            "normalises the features of each position, with gain and offset",
            params=(_INIT,),
            parameters=rules.norm_parameters,
            zero=rules.zero_or_zeroed,
        ),
        "rms_norm": Operator(
            "divides the features of each position by their root mean square, with gain",
            params=(_INIT,),
            parameters=rules.gain_parameters,
            zero=rules.zero_or_zeroed,
        ),
        "group_norm": Operator(
            "normalises each group of features over all positions, with gain and offset per feature",
            params=(Param("groups", WIDTH), _INIT),
            layouts=(Layout.VECTOR, *_IMAGES),
            shape=rules.group_norm_shape,
            parameters=rules.norm_parameters,
            zero=rules.zero_or_zeroed,
        ),
        "act": Operator(
            "an activation, element by element (gelu is the exact form)",
            params=(Param("fn", Choice(_ACTIVATIONS)),),
            zero=lambda zero, params: zero[0] and params["fn"] != "sigmoid",
        ),
        "glu": Operator(
            "first half of the features times an activation of the second half",
            params=(Param("fn", Choice(_ACTIVATIONS), "sigmoid"),),
            shape=rules.glu_shape,
        ),
        "add": Operator(
            "sum of two equal shapes", 2, 2, shape=rules.equal_shape, zero=lambda zero, params: all(zero), commutes=True
        ),
        "mul": Operator(
            "product of two equal shapes",
            2,
            2,
            shape=rules.equal_shape,
            zero=lambda zero, params: any(zero),
            commutes=True,
        ),
        "concat": Operator(
            "features side by side, in order", 2, 8, shape=rules.concat_shape, zero=lambda zero, params: all(zero)
        ),
        "scale": Operator("times 2^log2", params=(Param("log2", Integer(-16, 8)),)),
        "channel_scale": Operator(
            "a learned gain per feature, 1 at start; weight (C,)",
            params=(_INIT,),
            parameters=rules.gain_parameters,
            zero=rules.zero_or_zeroed,
        ),
        "avg_pool": Operator(
            "mean over blocks of `factor` positions in each direction",
            params=(_FACTOR,),
            layouts=_IMAGES,
            shape=rules.pool_shape,
        ),
        "upsample": Operator(
            "repeats every position `factor` times in each direction",
            params=(_FACTOR,),
            layouts=_IMAGES,
            shape=rules.upsample_shape,
        ),
        "global_pool": Operator(
            "mean over all positions, kept as one position",
            layouts=_POSITIONED,
            shape=rules.global_shape,
            causal=lambda params: False,
        ),
        "broadcast": Operator(
            "repeats a single position over the positions of the second input",
            2,
            2,
            layouts=_POSITIONED,
            shape=rules.broadcast_shape,
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
