"""How a seed learns before it may affect the host: the objectives and the optimizer that belongs to the seed alone.

All of it runs after the host's optimizer step, on copies. The host's forward values, gradients, optimizer state,
buffers and random numbers are bit for bit those of a run without the seed.

- ``Reconstruction``: at α = 1 the blended output shall equal u: mean(s²)/mean(u²) for a residual blend,
mean((s−u)²)/mean(u²) for a convex one.
- ``Shadow``: a second forward pass with the seed really on at α = 1; only the seed's parameters get gradients.
- ``Task``: straight-through. The host sees exactly u; the gradient g = dL/du that the host's own backward pass leaves
there is applied to s as if s had been added: ⟨g, s(u)⟩. That is linear in s and so unbounded below; the ratio
rms(s)/rms(u) above the limit is therefore penalised by 10·(ratio − limit)².
- ``None``: nothing is learned in isolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leyline.resources.enums import Blend, Objective

_TINY = 1e-12
_PENALTY = 10.0
_WINDOW = 10


@dataclass(frozen=True)
class Lesson:
    """What one step would teach a seed: the loss and the gradient of each parameter, None where it has none."""

    loss: float
    gradients: tuple[Tensor | None, ...]


@dataclass
class Capture:
    """One activation of the slot: a copy of u, and for the task objective the gradient that later arrived at it."""

    u: Tensor
    gradient: Tensor | None = None

    def receive(self, gradient: Tensor) -> None:
        """Add a gradient of the loss with respect to u (more than one backward pass may reach it)."""
        copy = gradient.detach().clone()
        self.gradient = copy if self.gradient is None else self.gradient + copy


@dataclass
class Trace:
    """How isolated learning went: loss at its start and lately, gradient norms, what was not finite."""

    steps: int = 0
    first_sum: float = 0.0
    first_count: int = 0
    recent: tuple[float, ...] = ()
    nonfinite_losses: int = 0
    nonfinite_gradients: int = 0
    smallest_norm: float = math.inf
    largest_norm: float = 0.0
    last_norm: float = 0.0
    scale: float = 0.0

    def record(self, loss: float, norm: float) -> bool:
        """Note one step; False if it must not be applied because loss or gradient is not finite."""
        self.steps += 1
        if not math.isfinite(loss):
            self.nonfinite_losses += 1
            return False
        if not math.isfinite(norm):
            self.nonfinite_gradients += 1
            return False
        if self.first_count < _WINDOW:
            self.first_sum += loss
            self.first_count += 1
        self.recent = (*self.recent, loss)[-_WINDOW:]
        self.smallest_norm = min(self.smallest_norm, norm)
        self.largest_norm = max(self.largest_norm, norm)
        self.last_norm = norm
        return True

    @property
    def first(self) -> float:
        """Mean loss over the first steps (at most ten)."""
        return self.first_sum / self.first_count if self.first_count else math.nan

    @property
    def last(self) -> float:
        """Mean loss over the latest steps (at most ten)."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    @property
    def exact(self) -> bool:
        """True if the loss has been zero from the first step to the last (a zero-initialised residual branch)."""
        return self.first_count > 0 and self.first == 0.0 and self.last == 0.0 and self.largest_norm == 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an infinite smallest norm (nothing recorded) is None."""
        data = dict(self.__dict__)
        data["recent"] = list(self.recent)
        data["smallest_norm"] = None if math.isinf(self.smallest_norm) else self.smallest_norm
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """The inverse of :meth:`to_dict`."""
        fields = dict(data)
        fields["recent"] = tuple(fields["recent"])
        if fields["smallest_norm"] is None:
            fields["smallest_norm"] = math.inf
        return cls(**fields)


class IsolatedLearner:
    """Objective, captured activations and AdamW of one seed in isolation.

    Args:
        kernel: the seed's kernel; its parameters are the only ones that change.
        objective: what it learns.
        blend: how it will join the host later.
        learning_rate: AdamW's rate (no weight decay).
        scale_limit: rms(s)/rms(u) above which the task objective is penalised.
    """

    def __init__(
        self, kernel: nn.Module, objective: Objective, blend: Blend, learning_rate: float, scale_limit: float
    ) -> None:
        self.kernel = kernel
        self.objective = objective
        self.blend = blend
        self.scale_limit = scale_limit
        self.parameters = list(kernel.parameters())
        self._dtype = self.parameters[0].dtype if self.parameters else torch.float32
        self.trace = Trace()
        self.captures: list[Capture] = []
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=0.0)

    @property
    def captures_activations(self) -> bool:
        """True if the objective needs the slot's activations of the host's own pass."""
        return self.objective in (Objective.RECONSTRUCTION, Objective.TASK)

    def capture(self, u: Tensor) -> None:
        """Keep a copy of the slot's activation; for the task objective also what its gradient will be.

        ``u`` stays as it is. A hook on a tensor sees the gradient with respect to its value at this point, also if
        the host later changes it in place, and adds no node to the host's graph.
        """
        copy = Capture(u.detach().clone())
        if self.objective is Objective.TASK:
            if not u.requires_grad:
                return
            u.register_hook(copy.receive)  # type: ignore[no-untyped-call]
        self.captures.append(copy)

    def lesson(self, shadow: Callable[[], Tensor]) -> Lesson | None:
        """What this step has to teach; None if there is nothing to learn from. Changes no parameter.

        Args:
            shadow: gives the task loss of a forward pass with the seed on; called for the shadow objective only.
        """
        captures, self.captures = self.captures, []
        if self.objective is Objective.NONE or not self.parameters:
            return None
        self.kernel.train()
        if self.objective is Objective.SHADOW:
            loss = shadow()
        else:
            usable = [c for c in captures if self.objective is not Objective.TASK or c.gradient is not None]
            if not usable:
                return None
            with torch.enable_grad():
                loss = torch.stack([self._loss(capture) for capture in usable]).mean()
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True) if loss.requires_grad else ()
        return Lesson(loss.item(), gradients)

    def take(self, lesson: Lesson) -> None:
        """Take one step; a loss or gradient that is not finite is noted and changes no parameter."""
        found = [gradient for gradient in lesson.gradients if gradient is not None]
        norm = float(torch.nn.utils.get_total_norm(found)) if found else 0.0
        if not self.trace.record(lesson.loss, norm):
            return
        for parameter, gradient in zip(self.parameters, lesson.gradients, strict=False):
            parameter.grad = gradient
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def _loss(self, capture: Capture) -> Tensor:
        wide = torch.promote_types(self._dtype, torch.float32)
        u = capture.u.to(wide)
        branch = self.kernel(capture.u.to(self._dtype).contiguous()).to(wide)
        power = u.square().mean().clamp_min(_TINY)
        spread = branch.square().mean()
        self.trace.scale = float((spread.detach() / power).sqrt())
        if capture.gradient is None:
            residue = branch if self.blend is Blend.RESIDUAL else branch - u
            loss: Tensor = residue.square().mean() / power
            return loss
        excess = (((spread + _TINY) / power).sqrt() - self.scale_limit).clamp_min(0.0)
        linear: Tensor = (capture.gradient.to(wide) * branch).sum()
        penalised: Tensor = linear + _PENALTY * excess.square()
        return penalised

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Optimizer moments as ``<index>|<key>`` and the trace."""
        tensors = {
            f"{index}|{key}": value
            for index, parameter in enumerate(self.parameters)
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        return tensors, {"trace": self.trace.to_dict()}

    def import_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Make moments and trace exactly what was exported."""
        self.trace = Trace.from_dict(meta["trace"])
        self.captures = []
        self.optimizer.state.clear()
        for name, value in tensors.items():
            index, key = name.split("|", 1)
            # the step counter lives on the CPU, the moments with their parameter
            copy = (
                value.detach().clone()
                if key == "step"
                else value.detach().to(self.parameters[int(index)].device, copy=True)
            )
            self.optimizer.state[self.parameters[int(index)]][key] = copy
