"""Blueprints that mix the steps of a sequence. All are causal, so they fit language models and classifiers alike."""

from __future__ import annotations

from leyline.blueprint import BlueprintIR, node
from leyline.interface import Layout

__all__ = ["BLUEPRINTS"]

_LAYOUTS = (Layout.SEQUENCE,)


def attention() -> BlueprintIR:
    """Causal multi-head self-attention (Vaswani et al. 2017), norm first."""
    nodes = {
        "u": node("input"),
        "norm": node("rms_norm", "u"),
        "attention": node("attention", "norm", heads=4, head_dim="w/4", causal=True, init="zeros"),
    }
    return BlueprintIR(nodes, "attention", _LAYOUTS)


def token_mixer() -> BlueprintIR:
    """Mixes steps by a depthwise convolution over the past, then features: attention-free, linear in the length."""
    nodes = {
        "u": node("input"),
        "norm": node("layer_norm", "u"),
        "mix": node("causal_conv", "norm", kernel=7),
        "act": node("act", "mix", fn="gelu"),
        "out": node("linear", "act", out="w", init="zeros"),
    }
    return BlueprintIR(nodes, "out", _LAYOUTS)


def shifted_mlp() -> BlueprintIR:
    """An MLP that sees this step and the one before (token shift, as in RWKV, Peng et al. 2023)."""
    nodes = {
        "u": node("input"),
        "norm": node("layer_norm", "u"),
        "before": node("token_shift", "norm", steps=1),
        "both": node("concat", "norm", "before"),
        "up": node("linear", "both", out="2w"),
        "act": node("act", "up", fn="relu"),
        "down": node("linear", "act", out="w", init="zeros"),
    }
    return BlueprintIR(nodes, "down", _LAYOUTS)


def gated_mixer() -> BlueprintIR:
    """A long causal convolution whose output is gated by the present step (in the spirit of Poli et al. 2023)."""
    nodes = {
        "u": node("input"),
        "norm": node("rms_norm", "u"),
        "values": node("linear", "norm", out="w", bias=False),
        "past": node("causal_conv", "values", kernel=16, bias=False),
        "logits": node("linear", "norm", out="w", bias=False),
        "gate": node("act", "logits", fn="silu"),
        "product": node("mul", "past", "gate"),
        "out": node("linear", "product", out="w", bias=False, init="zeros"),
    }
    return BlueprintIR(nodes, "out", _LAYOUTS)


BLUEPRINTS: dict[str, tuple[BlueprintIR, str, float]] = {
    "attention": (attention(), "norm, causal self-attention with 4 heads of w/4", 0.30),
    "token_mixer": (token_mixer(), "norm, depthwise causal convolution over 7 steps, GELU, linear", 0.15),
    "shifted_mlp": (shifted_mlp(), "MLP over this step and the previous one", 0.15),
    "gated_mixer": (gated_mixer(), "causal convolution over 16 steps, gated by the present one", 0.30),
}
