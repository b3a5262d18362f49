"""Running a compiled pair: two shared libraries called from one autograd function.

Each half is a library made by AOTInductor and loaded through PyTorch's own runner, which takes and returns plain
tensors: neither Dynamo nor Inductor nor a compiler is needed here. The runner's Python binding is not a public
interface; ``tests/unit/kernel/test_aoti_interface.py`` holds what is relied on, and the toolchain hash pins PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from esper.cache import cache_directory
from esper.errors import BadInput
from esper.files import write_file
from esper.kernel.artifact import Artifact, PairCall

__all__ = ["BACKWARD", "CACHE", "FORWARD", "Pair", "open_pair"]

FORWARD = "forward.so"
BACKWARD = "backward.so"
CACHE = "kernels"
"""Name of the cache that extracted libraries are in."""

Half = Callable[[Sequence[Tensor]], list[Tensor]]
_halves: dict[str, Half] = {}
_lock = threading.Lock()


class Pair:
    """Two compiled halves and how to call them; never copied, one per pair of libraries and process."""

    device = "cpu"

    def __init__(self, forward: Half, backward: Half, call: PairCall) -> None:
        """Work out once where each of the backward half's inputs comes from."""
        self.batch = call.batch
        self.forward_half = forward
        self.backward_half = backward
        self.saved = call.saved
        self.sources = tuple((source[0], int(source[1:] or 0)) for source in call.backward if source != "t")
        self.tangent = call.backward.index("t") if "t" in call.backward else None

    def __call__(self, u: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return s(u), differentiable once."""
        out: Tensor = _PairFunction.apply(self, u, *parameters)  # type: ignore[no-untyped-call]
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Pair:
        return self


class _PairFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, pair: Pair, u: Tensor, *parameters: Tensor) -> Tensor:
        outputs = pair.forward_half([*parameters, u])
        pools = {"p": parameters, "u": (u,), "s": outputs[1:]}
        ctx.pair = pair  # type: ignore[attr-defined]
        ctx.save_for_backward(*(pools[kind][index] for kind, index in pair.sources))
        return outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor | None, ...]:
        pair: Pair = ctx.pair
        inputs = list(ctx.saved_tensors)
        if pair.tangent is not None:
            inputs.insert(pair.tangent, tangent.contiguous())
        *parameters, u = pair.backward_half(inputs)
        return None, u, *parameters


def open_pair(artifact: Artifact) -> Pair:
    """Load both halves of a verified artifact; libraries already open in this process are shared.

    Raises:
        TamperedArtifact: a blob changed since it was verified.
        RuntimeError: the dynamic linker refused a library.
    """
    call = artifact.manifest.pair
    if call is None:
        raise BadInput(f"{artifact.id}: the manifest does not say how the pair is called; build it again")
    return Pair(_open_half(artifact, FORWARD), _open_half(artifact, BACKWARD), call)


def _open_half(artifact: Artifact, name: str) -> Half:
    digest = artifact.manifest.blobs[name].sha256
    with _lock:
        if digest not in _halves:
            _halves[digest] = load_half(_extract(artifact, name, digest))
        return _halves[digest]


def load_half(library: Path) -> Half:
    """Open one library, with its own check of shapes, strides and dtypes switched on."""
    # Read by the library itself at its first call; without it a wrong stride gives garbage without a word.
    os.environ.setdefault("AOTI_RUNTIME_CHECK_INPUTS", "1")
    runner: Any = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)
    run: Half = runner.run
    return run


def _extract(artifact: Artifact, name: str, digest: str) -> Path:
    """Put the verified bytes where only this user can change them, under their digest."""
    target = cache_directory(CACHE) / f"{digest}.so"
    data = artifact.blob(name)
    if not (target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == digest):
        write_file(target, data, mode=0o500)
    return target
