"""Blueprints that treat every position alone: for vectors, and for each step of a sequence."""

from __future__ import annotations

from leyline.blueprint import BlueprintIR, node
from leyline.interface import Layout

__all__ = ["BLUEPRINTS"]

_LAYOUTS = (Layout.VECTOR, Layout.SEQUENCE)


def mlp() -> BlueprintIR:
    """The Transformer's feed-forward block (Vaswani et al. 2017), with the norm first."""
    nodes = {
        "u": node("input"),
        "norm": node("layer_norm", "u"),
        "up": node("linear", "norm", out="4w"),
        "act": node("act", "up", fn="gelu"),
        "down": node("linear", "act", out="w", init="zeros"),
    }
    return BlueprintIR(nodes, "down", _LAYOUTS)


def bottleneck() -> BlueprintIR:
    """A narrow adapter (Houlsby et al. 2019): few parameters, a non-linear correction of low rank."""
    nodes = {
        "u": node("input"),
        "down": node("linear", "u", out="w/4"),
        "act": node("act", "down", fn="relu"),
        "up": node("linear", "act", out="w", init="zeros"),
    }
    return BlueprintIR(nodes, "up", _LAYOUTS)


def gated_mlp() -> BlueprintIR:
    """SwiGLU (Shazeer 2020): half of the hidden units gate the other half."""
    nodes = {
        "u": node("input"),
        "norm": node("rms_norm", "u"),
        "up": node("linear", "norm", out="4w", bias=False),
        "gate": node("glu", "up", fn="silu"),
        "down": node("linear", "gate", out="w", bias=False, init="zeros"),
    }
    return BlueprintIR(nodes, "down", _LAYOUTS)


def low_rank() -> BlueprintIR:
    """A linear map of rank w/8 (as LoRA, Hu et al. 2021): it can be folded into the host afterwards."""
    nodes = {
        "u": node("input"),
        "down": node("linear", "u", out="w/8", bias=False),
        "up": node("linear", "down", out="w", bias=False, init="zeros"),
    }
    return BlueprintIR(nodes, "up", _LAYOUTS)


def scaled_mlp() -> BlueprintIR:
    """An MLP that is random from the start and fades in feature by feature (LayerScale, Touvron et al. 2021)."""
    nodes = {
        "u": node("input"),
        "norm": node("rms_norm", "u"),
        "up": node("linear", "norm", out="2w"),
        "act": node("act", "up", fn="silu"),
        "down": node("linear", "act", out="w"),
        "fade": node("channel_scale", "down", init="zeros"),
    }
    return BlueprintIR(nodes, "fade", _LAYOUTS)


def feature_gate() -> BlueprintIR:
    """Each feature times a learned function of all features, at its own position: reweighs, invents nothing."""
    nodes = {
        "u": node("input"),
        "logits": node("linear", "u", out="w"),
        "gate": node("act", "logits", fn="tanh"),
        "product": node("mul", "u", "gate"),
        "fade": node("channel_scale", "product", init="zeros"),
    }
    return BlueprintIR(nodes, "fade", _LAYOUTS)


BLUEPRINTS: dict[str, tuple[BlueprintIR, str, float]] = {
    "mlp": (mlp(), "norm, linear to 4w, GELU, linear back: the usual feed-forward block", 0.10),
    "bottleneck": (bottleneck(), "linear to w/4, ReLU, linear back: a small adapter", 0.10),
    "gated_mlp": (gated_mlp(), "norm, SwiGLU with 2w units: more expressive per parameter", 0.20),
    "low_rank": (low_rank(), "a linear correction of rank w/8: the cheapest, no non-linearity", 0.05),
    "scaled_mlp": (scaled_mlp(), "MLP with random weights, faded in by a gain per feature", 0.20),
    "feature_gate": (feature_gate(), "features times a tanh gate of all features: reweighs what is there", 0.30),
}
