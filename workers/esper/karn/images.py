"""Blueprints for feature maps in one and two dimensions; the two-dimensional names end in ``_2d``."""

from __future__ import annotations

from collections.abc import Callable

from leyline.blueprint import BlueprintIR, Node, node
from leyline.interface import Layout

__all__ = ["BLUEPRINTS"]


def conv_block(conv: str) -> dict[str, Node]:
    """Two 3-tap convolutions with a norm and a ReLU between (He et al. 2016): the branch of a residual network."""
    return {
        "u": node("input"),
        "first": node(conv, "u", out="w", kernel=3, bias=False),
        "norm": node("group_norm", "first", groups=1),
        "act": node("act", "norm", fn="relu"),
        "out": node(conv, "act", out="w", kernel=3, bias=False, init="zeros"),
    }


def separable_conv(conv: str) -> dict[str, Node]:
    """A depthwise convolution, then a pointwise one (Chollet 2017): mixes positions and features one after another."""
    return {
        "u": node("input"),
        "depthwise": node(conv, "u", out="w", kernel=5, groups="depthwise", bias=False),
        "norm": node("group_norm", "depthwise", groups=1),
        "act": node("act", "norm", fn="relu"),
        "out": node("linear", "act", out="w", init="zeros"),
    }


def dilated_conv(conv: str) -> dict[str, Node]:
    """Two convolutions with gaps (Yu & Koltun 2016): a wide view for few parameters."""
    return {
        "u": node("input"),
        "norm": node("group_norm", "u", groups=1),
        "first": node(conv, "norm", out="w", kernel=3, dilation=2, bias=False),
        "act": node("act", "first", fn="silu"),
        "out": node(conv, "act", out="w", kernel=3, dilation=4, init="zeros"),
    }


def squeeze_excite(conv: str) -> dict[str, Node]:
    """Features times a gate worked out from their means over the whole map (Hu et al. 2018)."""
    return {
        "u": node("input"),
        "mean": node("global_pool", "u"),
        "down": node("linear", "mean", out="w/4"),
        "act": node("act", "down", fn="relu"),
        "up": node("linear", "act", out="w"),
        "gate": node("act", "up", fn="sigmoid"),
        "spread": node("broadcast", "gate", "u"),
        "product": node("mul", "u", "spread"),
        "fade": node("channel_scale", "product", init="zeros"),
    }


def grouped_conv(conv: str) -> dict[str, Node]:
    """A convolution in four groups between two pointwise ones (Xie et al. 2017)."""
    return {
        "u": node("input"),
        "in": node("linear", "u", out="w"),
        "before": node("act", "in", fn="relu"),
        "grouped": node(conv, "before", out="w", kernel=3, groups=4, bias=False),
        "norm": node("group_norm", "grouped", groups=4),
        "after": node("act", "norm", fn="relu"),
        "out": node("linear", "after", out="w", init="zeros"),
    }


def gated_conv(conv: str) -> dict[str, Node]:
    """A convolution that gates itself (Dauphin et al. 2017)."""
    return {
        "u": node("input"),
        "both": node(conv, "u", out="2w", kernel=3),
        "gate": node("glu", "both", fn="sigmoid"),
        "out": node("linear", "gate", out="w", init="zeros"),
    }


def multi_scale(conv: str) -> dict[str, Node]:
    """Narrow and wide convolutions side by side (Szegedy et al. 2015)."""
    return {
        "u": node("input"),
        "narrow": node(conv, "u", out="w/2", kernel=3),
        "wide": node(conv, "u", out="w/2", kernel=7),
        "both": node("concat", "narrow", "wide"),
        "act": node("act", "both", fn="relu"),
        "out": node("linear", "act", out="w", init="zeros"),
    }


def pooled_context(conv: str) -> dict[str, Node]:
    """A convolution on the map at half resolution, spread back: context at a fraction of the cost."""
    return {
        "u": node("input"),
        "pool": node("avg_pool", "u", factor=2),
        "conv": node(conv, "pool", out="w", kernel=3),
        "act": node("act", "conv", fn="gelu"),
        "up": node("upsample", "act", factor=2),
        "out": node("linear", "up", out="w", init="zeros"),
    }


def inverted_bottleneck(conv: str) -> dict[str, Node]:
    """A wide depthwise convolution, then an MLP at every position (Liu et al. 2022)."""
    return {
        "u": node("input"),
        "depthwise": node(conv, "u", out="w", kernel=7, groups="depthwise"),
        "norm": node("layer_norm", "depthwise"),
        "up": node("linear", "norm", out="4w"),
        "act": node("act", "up", fn="gelu"),
        "down": node("linear", "act", out="w", init="zeros"),
    }


_DESIGNS: dict[str, tuple[Callable[[str], dict[str, Node]], str, float]] = {
    "conv_block": (conv_block, "conv 3, GroupNorm, ReLU, conv 3: the branch of a residual network", 0.05),
    "separable_conv": (separable_conv, "depthwise conv 5, GroupNorm, ReLU, pointwise: cheap", 0.10),
    "dilated_conv": (dilated_conv, "GroupNorm and two dilated conv 3: sees far for few parameters", 0.15),
    "squeeze_excite": (squeeze_excite, "features gated by the whole map's means: reweighs, no new features", 0.30),
    "grouped_conv": (grouped_conv, "pointwise, conv 3 in four groups, pointwise", 0.15),
    "gated_conv": (gated_conv, "conv 3 to 2w, gated linear unit, pointwise", 0.25),
    "multi_scale": (multi_scale, "conv 3 and conv 7 side by side, ReLU, pointwise", 0.15),
    "pooled_context": (pooled_context, "conv 3 at half resolution, spread back, pointwise", 0.15),
    "inverted_bottleneck": (inverted_bottleneck, "depthwise conv 7, norm, MLP of 4w: large and strong", 0.15),
}


def _collect() -> dict[str, tuple[BlueprintIR, str, float]]:
    found = {}
    for suffix, conv, layout in (("", "conv1d", Layout.IMAGE1D), ("_2d", "conv2d", Layout.IMAGE2D)):
        for name, (design, summary, risk) in _DESIGNS.items():
            nodes = design(conv)
            output = next(reversed(nodes))
            found[f"{name}{suffix}"] = (BlueprintIR(nodes, output, (layout,)), summary, risk)
    return found


BLUEPRINTS: dict[str, tuple[BlueprintIR, str, float]] = _collect()
