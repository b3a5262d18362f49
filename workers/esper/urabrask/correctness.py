"""Is a kernel right? Compare its output and every gradient with a computation in double precision, on several draws.

Errors are relative in the L2 norm: one unit whose activation sits exactly on a ReLU's kink may take either side in
single precision, which moves one number a lot and the norm a little. A single draw may therefore miss the tolerance
where plain PyTorch in the same precision misses it as well; the median over all draws may not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.kernel.draws import draw
from esper.kernel.lowering import Lowering
from esper.kernel.module import Kernel

__all__ = ["TOLERANCES", "Correctness", "check"]

#: Largest relative L2 error against double precision, by dtype: some hundred times the unit roundoff.
TOLERANCES = {"float64": 1e-12, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
#: A single draw may exceed the tolerance up to this multiple of what PyTorch itself is off by in the same precision.
_SHARED = 4.0
#: Factors on the input at which a kernel must stay finite and accurate to be called numerically stable.
_SCALES = (1e-3, 1e3)
_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Correctness:
    """What the comparison found. Errors are relative; ``problems`` is empty when the kernel is right."""

    draws: int
    output_error: float
    gradient_error: float
    drift_vs_fp32: float
    tolerance: float
    zero_at_start: bool
    stable: bool
    growth: float
    problems: list[str] = field(default_factory=list)


def check(kernel: Kernel, batches: Sequence[int] = (2, 3, 8, 17)) -> Correctness:
    """Compare ``kernel`` in training mode with double precision, one draw of parameters and input per batch size.

    ``growth`` is by how much the output's size grows when the input becomes ten times larger: 10 for a linear branch,
    about 1 after a norm, 100 for a product of activations.
    """
    parameters = list(kernel.parameters())
    initial = [parameter.detach().clone() for parameter in parameters]
    tolerance = TOLERANCES[kernel.interface.dtype]
    zero = _zero_at_start(kernel)
    names = ["output", "gradient of u", *(f"gradient of {spec.name}" for spec in kernel.manifest.parameters)]
    errors: list[list[float]] = [[] for _ in names]
    drift, problems = 0.0, []
    per_sample = torch.Size(kernel.interface.sample_shape).numel()
    sizes = [batch for batch in batches if batch * per_sample <= _ELEMENTS] or [min(batches)]
    for index, batch in enumerate(sizes):
        u, tangent = _load(kernel, batch, index)
        mine = _run(kernel, u, parameters, tangent)
        twice = _run(kernel, u, parameters, tangent)
        exact, plain = (_reference(kernel, u, parameters, tangent, dtype) for dtype in (torch.float64, torch.float32))
        same = _reference(kernel, u, parameters, tangent, u.dtype)
        for position, name in enumerate(names):
            error, allowed = _error(mine[position], exact[position]), _error(same[position], exact[position])
            errors[position].append(error)
            drift = max(drift, _error(mine[position], plain[position]))
            if not error <= max(tolerance, _SHARED * allowed):
                problems.append(f"batch {batch}: {name} is off by {error:.2g}, allowed are {tolerance:g}")
            if not torch.equal(mine[position], twice[position]):
                problems.append(f"batch {batch}: {name} differs between two equal calls")
    for name, found in zip(names, errors, strict=True):
        if not statistics.median(found) <= tolerance:
            problems.append(f"{name} is off by {statistics.median(found):.2g} in most draws, allowed are {tolerance:g}")
    stable, growth = _extremes(kernel, parameters, sizes[0], tolerance)
    with torch.no_grad():
        for parameter, value in zip(parameters, initial, strict=True):
            parameter.copy_(value)
    return Correctness(
        draws=len(sizes),
        output_error=max(errors[0]),
        gradient_error=max(max(found) for found in errors[1:]),
        drift_vs_fp32=drift,
        tolerance=tolerance,
        zero_at_start=zero,
        stable=stable,
        growth=growth,
        problems=problems,
    )


def _zero_at_start(kernel: Kernel) -> bool:
    u = torch.randn(kernel.interface.shape(2), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return bool((kernel.train()(u.to(getattr(torch, kernel.interface.dtype))) == 0).all())


def _load(kernel: Kernel, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw parameters into the kernel; return an input and an output gradient."""
    generator = torch.Generator().manual_seed(seed)
    values, u = draw(kernel.ir, kernel.interface, batch, generator)
    with torch.no_grad():
        for parameter, value in zip(kernel.parameters(), values, strict=True):
            parameter.copy_(value)
    return u, torch.randn(u.shape, generator=generator).to(u.dtype)


def _run(path: Callable[[Tensor], Tensor], u: Tensor, leaves: Sequence[Tensor], tangent: Tensor) -> list[Tensor]:
    """Return the output and the gradients of u and all leaves."""
    u = u.detach().requires_grad_()
    with torch.enable_grad():
        out = path(u)
        gradients = torch.autograd.grad(out, [u, *leaves], tangent, allow_unused=True, materialize_grads=True)
    return [out.detach(), *gradients]


def _reference(
    kernel: Kernel, u: Tensor, parameters: Sequence[Tensor], tangent: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    lowering = Lowering.of(kernel.ir, kernel.interface)
    leaves = [parameter.detach().to(dtype).requires_grad_() for parameter in parameters]
    return _run(lambda x: lowering(x, leaves), u.to(dtype), leaves, tangent.to(dtype))


def _error(mine: Tensor, exact: Tensor) -> float:
    difference = (mine.double() - exact.double()).norm()
    return float(difference / exact.double().norm().clamp_min(1e-30)) if difference != 0 else 0.0


def _extremes(kernel: Kernel, parameters: Sequence[Tensor], batch: int, tolerance: float) -> tuple[bool, float]:
    u, tangent = _load(kernel, batch, 99)
    stable = True
    for scale in _SCALES:
        mine = _run(kernel, u * scale, parameters, tangent)
        exact = _reference(kernel, u * scale, parameters, tangent, torch.float64)
        worst = max(_error(a, b) for a, b in zip(mine, exact, strict=True))
        stable = stable and all(bool(tensor.isfinite().all()) for tensor in mine) and worst <= 10 * tolerance
    with torch.no_grad():
        small, large = kernel(u).double().norm(), kernel(u * 10).double().norm()
    return stable, float(large / small.clamp_min(1e-30)) if bool(large.isfinite()) else 1e30
