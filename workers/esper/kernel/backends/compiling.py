"""Compile both halves of a pair with AOTInductor. Imported only in the process that builds."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from esper.kernel import hardware
from esper.kernel.artifact import PairCall
from esper.kernel.backends import Built
from esper.kernel.backends.pair import BACKWARD, FORWARD, Pair, load_half
from esper.kernel.draws import draw
from esper.kernel.errors import KernelBuildError
from esper.kernel.lowering import Lowering
from leyline.blueprint import BlueprintIR
from leyline.interface import Interface

__all__ = ["build_pair"]

TYPICAL_BATCH = 32
#: Levels that compilers know by name; a kernel then runs on every machine of its hardware target, not only this one.
_MARCH = {"x86_64-avx512": "x86-64-v4", "x86_64-avx2": "x86-64-v3", "x86_64-scalar": "x86-64"}


def build_pair(ir: BlueprintIR, interface: Interface, workdir: Path) -> Built:
    """Trace, cut, compile and try the pair.

    Raises:
        KernelBuildError: the halves disagree with the reference, or were compiled for no usable batch range.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(workdir / "inductor")  # part of the path the compiler sees
    from esper.kernel.backends.tracing import trace_halves

    low, high = interface.batch
    dynamic = high > max(low, 2)
    batch = min(max(low, TYPICAL_BATCH), high)
    lowering = Lowering.of(ir, interface)
    generator = torch.Generator().manual_seed(0)
    parameters, u = draw(ir, interface, batch, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations in its tracer
        halves = trace_halves(lowering, parameters, u, dynamic=dynamic)
        if dynamic:
            _check_dynamic(halves.forward)
        with torch.no_grad():
            outputs = halves.forward(*parameters, u)
        pools = {"p": parameters, "u": [u], "s": outputs[1:], "t": [torch.ones_like(u)]}
        backward_inputs = [pools[source[0]][int(source[1:] or 0)] for source in halves.backward_inputs]
        forward, ranges = _compile(halves.forward, [*parameters, u], batch, dynamic)
        backward, more = _compile(halves.backward, backward_inputs, batch, dynamic)
    limits = _batch_range(interface, [ranges, more] if dynamic else [], batch)
    call = PairCall(saved=len(halves.saved), backward=halves.backward_inputs, batch=limits)
    blobs = {FORWARD: forward.read_bytes(), BACKWARD: backward.read_bytes()}
    _try(ir, interface, Pair(load_half(forward), load_half(backward), call), batch)
    saved = sum(t.untyped_storage().nbytes() for t in _distinct(outputs[1:])) // batch
    return Built(saved, blobs, call)


def _check_dynamic(forward: torch.fx.GraphModule) -> None:
    """The forward half's last input is the kernel's; its first dimension must still be a symbol."""
    *_, u = (node for node in forward.graph.nodes if node.op == "placeholder")
    batch = u.meta["val"].shape[0]
    if not isinstance(batch, torch.SymInt):
        raise KernelBuildError(f"PyTorch fixed the batch at {batch} while tracing: no pair for other batches")


class _Half(nn.Module):
    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.graph(*inputs))


def _compile(
    graph: torch.fx.GraphModule, inputs: Sequence[Tensor], batch: int, dynamic: bool
) -> tuple[Path, tuple[int, int]]:
    """Export and compile one half; return the library and the batch range it assumes."""
    metas = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    auto = torch.export.Dim.AUTO
    shapes = [{d: auto for d, size in enumerate(m.shape) if isinstance(size, torch.SymInt)} or None for m in metas]
    options: dict[str, Any] = {
        "compile_threads": 1,
        # Inductor guesses from the traced batch which library will run a convolution's backward pass, and would have
        # the half refuse batches below 16. The library is chosen anew at run time; small batches are tried below.
        "aot_inductor.check_lowerbound": False,
        "aot_inductor.precompile_headers": shutil.which("openssl") is not None,
        "cpp.march": _MARCH.get(hardware.hardware_target()),
        "cpp.vec_isa_ok": True,
        "cpp.dynamic_threads": True,
    }
    program = torch.export.export(_Half(graph), tuple(inputs), dynamic_shapes=(tuple(shapes),) if dynamic else None)
    library = torch._inductor.aot_compile(program.module(), tuple(inputs), options=options)
    if not isinstance(library, str):
        raise KernelBuildError(f"AOTInductor returned {type(library).__name__} instead of a library")
    _strip(Path(library))
    return Path(library), _assumed(program, metas, batch)


def _strip(library: Path) -> None:
    """Take out the debugging symbols, four fifths of the file, where the tool that comes with compilers is there."""
    tool = shutil.which("strip")
    if tool is not None:
        subprocess.run([tool, "-s", str(library)], check=True, timeout=60)


def _assumed(program: torch.export.ExportedProgram, metas: Sequence[Any], batch: int) -> tuple[int, int]:
    """Read the batch range off the exported program: what its symbolic sizes, each a multiple of the batch, allow."""
    low, high = 2, 2**31  # the tracer always treats 0 and 1 as sizes of their own
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, meta in zip(placeholders, metas, strict=True):
        for traced, exported in zip(meta.shape, node.meta["val"].shape, strict=True):
            if not isinstance(traced, torch.SymInt):
                continue
            multiple = int(traced.node.hint) // batch
            if not isinstance(exported, torch.SymInt):
                low = high = batch  # PyTorch insisted on the traced size
                continue
            found = program.range_constraints.get(exported.node.expr)
            if found is not None:
                low = max(low, -(-int(found.lower) // multiple))
                high = min(high, int(min(found.upper, 2**31)) // multiple)
    return low, high


def _batch_range(interface: Interface, ranges: Sequence[tuple[int, int]], batch: int) -> tuple[int, int]:
    low, high = interface.batch if ranges else (batch, batch)
    for lower, upper in ranges:
        low, high = max(low, lower), min(high, upper)
    if not low <= batch <= high:
        raise KernelBuildError(f"the compiled halves take batches from {low} to {high}, which leaves out {batch}")
    return low, high


def _distinct(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list({t.untyped_storage()._cdata: t for t in tensors}.values())


def _try(ir: BlueprintIR, interface: Interface, pair: Pair, batch: int) -> None:
    """Run the pair on the ends of its range and on odd sizes; a wrong assumption must not leave this process."""
    low, high = pair.batch
    lowering = Lowering.of(ir, interface)
    generator = torch.Generator().manual_seed(1)
    tolerance = 1e-3 if interface.dtype == "float32" else 1e-9 if interface.dtype == "float64" else 5e-2
    for size in sorted({low, min(low + 1, high), min(max(low, 15), high), min(batch + 1, high), min(2 * batch, high)}):
        parameters, u = draw(ir, interface, size, generator)
        tangent = torch.randn(u.shape, generator=generator).to(u.dtype)
        leaves = [u.requires_grad_(), *(p.requires_grad_() for p in parameters)]
        results = []
        for path in (pair, lowering):
            out = path(u, parameters)
            gradients = torch.autograd.grad(out, leaves, tangent, allow_unused=True, materialize_grads=True)
            results.append([out.detach(), *gradients])
        for index, (mine, reference) in enumerate(zip(*results, strict=True)):
            error = (mine - reference).abs().max() / reference.abs().max().clamp_min(1e-6)
            if not bool(error <= tolerance):
                what = "the output" if index == 0 else "a gradient"
                raise KernelBuildError(f"at batch {size} {what} of the pair differs by {float(error):.2g} of its size")
