"""Calling a kernel so that whatever it raises, forward or backward, stays with the seed and never reaches the
training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from esper.errors import RunFailed
from leyline.resources.enums import Blend


class KernelFault(RunFailed):
    """A kernel broke its contract at run time: it raised, or its output has another shape or dtype than its input."""


class GuardedKernel:
    """A kernel with its contract checked on every call.

    The input is made contiguous, an empty batch gives an empty branch. What the kernel does under autocast and with
    batches it was not compiled for is its own affair.

    Args:
        kernel: the kernel; its ``training`` flag decides which path it takes.
        blend: how the branch joins the host; decides the gradient that replaces a failed one.
        failed: told about an error in the backward pass.
    """

    def __init__(self, kernel: nn.Module, blend: Blend, failed: Callable[[Exception], None]) -> None:
        self.kernel = kernel
        self.blend = blend
        self.failed = failed
        self.parameters = tuple(kernel.parameters())

    def __call__(self, u: Tensor) -> Tensor:
        """The branch s(u): same shape, dtype and device as ``u``.

        Raises:
            KernelFault: the kernel raised or its output does not fit.
        """
        try:
            if torch.is_grad_enabled() and (u.requires_grad or any(p.requires_grad for p in self.parameters)):
                branch: Tensor = _Guarded.apply(self, u, *self.parameters)  # type: ignore[no-untyped-call]
                return branch
            return self.run(u)
        except KernelFault:
            raise
        except Exception as error:
            raise KernelFault(f"{type(error).__name__}: {error}") from error

    def run(self, u: Tensor) -> Tensor:
        """The kernel's output, checked, without protection of the backward pass."""
        if u.shape[0] == 0:
            return torch.zeros_like(u)
        branch = self.kernel(u.contiguous())
        if not isinstance(branch, Tensor):
            raise KernelFault(f"returned a {type(branch).__name__}, expected a tensor")
        if branch.shape != u.shape or branch.dtype != u.dtype or branch.device != u.device:
            raise KernelFault(
                f"returned {tuple(branch.shape)} {branch.dtype} on {branch.device}, "
                f"expected {tuple(u.shape)} {u.dtype} on {u.device}"
            )
        # a branch that is its own input would tie an in-place operation of the host to the slot's activation
        if branch.untyped_storage().data_ptr() == u.untyped_storage().data_ptr():
            branch = branch.clone()
        return branch


class _Guarded(torch.autograd.Function):
    """Runs the kernel under a graph of its own, so that an error in its backward pass can be caught.

    On such an error the seed counts as the identity for this step: the gradient that reaches ``u`` in total is the
    one that arrived (through the residual connection, or for a convex blend through the branch), and the parameters
    get none.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, guarded: GuardedKernel, u: Tensor, *parameters: Tensor) -> Tensor:
        inner = u.detach()
        with torch.enable_grad():
            inner.requires_grad_(u.requires_grad)
            branch = guarded.run(inner)
        ctx.guarded = guarded  # type: ignore[attr-defined]
        ctx.save_for_backward(inner, branch, *parameters)
        return branch.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        guarded: GuardedKernel = ctx.guarded
        inner, branch, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        inputs = [tensor for tensor, need in zip((inner, *parameters), needed, strict=True) if need]
        if not branch.requires_grad:
            return (None, *(None for _ in needed))
        try:
            # the graph is kept because the outer one may be; it is freed with ctx's saved tensors
            found = iter(torch.autograd.grad(branch, inputs, gradient, retain_graph=True, allow_unused=True))
            return (None, *(next(found) if need else None for need in needed))
        except Exception as error:  # noqa: BLE001  see the class
            guarded.failed(KernelFault(f"backward: {type(error).__name__}: {error}"))
            passed = gradient if guarded.blend is Blend.CONVEX and needed[0] else None
            return (None, passed, *(None for _ in parameters))
