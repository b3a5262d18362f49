"""What a forward pass of the host costs."""

from __future__ import annotations

from torch import nn

from esper.kasmina.sample import Sample, observe


def host_flops(model: nn.Module, sample: Sample) -> int:
    """Forward FLOPs for one sample by torch's own flop counter (matrix products, convolutions, attention;
    multiply-add = 2).

    The model runs once in eval mode without gradients and is left as it was.

    Raises:
        SlotError: the sample holds no batch, or the model raised on it.
    """
    return observe(model, sample)[1]
