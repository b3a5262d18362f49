"""One forward pass of the host on a sample batch, watching what every module returns and leaving nothing behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.errors import SlotError
from esper.kasmina.snapshot import untouched
from leyline.interface import Layout

#: A batch for the model: one tensor, positional arguments, or keyword arguments.
Sample: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]

_CHANNELS_FIRST_1D = (
    nn.Conv1d,
    nn.ConvTranspose1d,
    nn.BatchNorm1d,
    nn.InstanceNorm1d,
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)
_CHANNELS_FIRST_2D = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)


@dataclass
class Observation:
    """What one module returned: shape with the sample's batch first, calls, layout (None if it can't be told), or a
    problem.
    """

    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    calls: int = 0
    order: int = 0
    layout: Layout | None = None
    problem: str = ""


def observe(model: nn.Module, sample: Sample) -> tuple[dict[str, Observation], int]:
    """Run ``model`` once in eval mode without gradients; return what each module that ran returned, and FLOPs per
    sample.

    Buffers, training flags, random number generators and gradients are as before. FLOPs are those of torch's own flop
    counter (matrix products, convolutions, attention; a multiply-add counts as two), divided by the batch and rounded
    down.

    Raises:
        SlotError: the sample holds no tensor with a batch dimension, or the model raised on it.
    """
    batch = _batch(sample)
    watcher = _Watcher(batch)
    handles = [module.register_forward_hook(watcher.watching(path)) for path, module in model.named_modules()]
    counter = FlopCounterMode(display=False)
    # the fused encoder layer skips its submodules' hooks
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        with untouched(model), torch.no_grad():
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            with counter:
                _call(model, sample)
    except SlotError:
        raise
    except Exception as error:
        raise SlotError(
            f"the sample batch could not be run through {type(model).__name__} ({type(error).__name__}: {error}); "
            f"give a sample as the model takes it"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
    return watcher.seen, int(counter.get_total_flops()) // batch


class _Watcher:
    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.seen: dict[str, Observation] = {}
        self._order = 0
        # evidence by the identity of an output; outputs are kept so that an identity is not used twice
        self._first: dict[int, bool] = {}
        self._kept: list[Tensor] = []

    def watching(self, path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._note(path, module, args, output)

        return hook

    def _note(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        observation = self.seen.setdefault(path, Observation(type(module).__name__))
        observation.calls += 1
        self._order += 1
        observation.order = observation.order or self._order
        if not isinstance(output, Tensor):
            observation.problem = f"{type(module).__name__} returns a {type(output).__name__}, a seed needs one tensor"
            return
        shape = tuple(output.shape)
        channels_first = self._evidence(module, args, output)
        if channels_first is not None:
            self._first[id(output)] = channels_first
            self._kept.append(output)
        before, now = (observation.shape, observation.dtype), (shape, _name(output))
        if observation.calls > 1 and not observation.problem and before != now:
            observation.problem = f"its output changes between calls, from {before} to {now}"
            return
        observation.shape, observation.dtype = shape, _name(output)
        if not output.is_floating_point():
            observation.problem = f"{type(module).__name__} returns {output.dtype}, not floating-point numbers"
        elif not shape or shape[0] != self.batch:
            observation.problem = f"its output of shape {shape} does not have the batch of {self.batch} first"
        else:
            observation.layout = _layout(shape, channels_first)
            if observation.layout is None:
                observation.problem = f"its output of shape {shape} is neither (B,C), (B,T,C), (B,C,L) nor (B,C,H,W)"

    def _evidence(self, module: nn.Module, args: Any, output: Tensor) -> bool | None:
        """True if the features come right after the batch, False if they come last, None if nothing tells."""
        if id(output) in self._first:
            return self._first[id(output)]
        if output.dim() == 4 and any(isinstance(child, _CHANNELS_FIRST_2D) for child in module.modules()):
            return True
        if isinstance(module, _CHANNELS_FIRST_1D):
            return True
        if isinstance(module, _CHANNELS_LAST):
            return False
        kinds = [child for child in module.modules() if isinstance(child, (*_CHANNELS_FIRST_1D, *_CHANNELS_LAST))]
        if kinds:
            return isinstance(kinds[-1], _CHANNELS_FIRST_1D)
        given = args[0] if args and isinstance(args[0], Tensor) else None
        return self._first.get(id(given)) if given is not None else None


def _layout(shape: tuple[int, ...], channels_first: bool | None) -> Layout | None:
    if len(shape) == 2:
        return Layout.VECTOR
    if len(shape) == 3:
        return Layout.IMAGE1D if channels_first else Layout.SEQUENCE
    if len(shape) == 4 and channels_first is not False:
        return Layout.IMAGE2D
    return None


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _batch(sample: Sample) -> int:
    values: Iterable[Any] = sample if isinstance(sample, tuple | list) else (sample,)
    if isinstance(sample, dict):
        values = sample.values()
    for value in values:
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] > 0:
            return int(value.shape[0])
    raise SlotError("the sample holds no tensor with a batch dimension; give at least one example")


def _call(model: nn.Module, sample: Sample) -> Any:
    if isinstance(sample, dict):
        return model(**sample)
    if isinstance(sample, tuple | list):
        return model(*sample)
    return model(sample)
