"""What a kernel would be worth in a slot, before it is germinated: a short look with the host frozen.

Two signals, each on a copy of the host that is thrown away: the gradient norm at the kernel's zero-initialised last
layer, and the fall of the controller loss after a few steps that train only the kernel. A frozen host makes the fall
too large by far (it credits the kernel with progress the host would make anyway), so it ranks places and is never a
verdict. What it costs is charged to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from esper.kasmina.trying import trying
from esper.kernel import Kernel, load_kernel
from esper.tamiyo import Candidate, ProbeResult
from esper.tolaria.budget import TRAINING_PASSES, Ledger
from esper.tolaria.line import Line
from esper.tolaria.randomness import epoch_order, mix, seed_step

if TYPE_CHECKING:
    from esper.kasmina import KernelSource

HELD_OUT = 1000
"""Controller examples the fall of the loss is measured on."""


class Prober:
    """Measures candidates on request; the same candidates at the same epoch give the same numbers.

    Args:
        line: the run's line; only copies of it are touched.
        source: where kernels are.
        ledger: what the probes cost is charged here.
        steps: training steps of the short look; 0 measures the gradient only.
    """

    def __init__(self, line: Line, source: KernelSource, ledger: Ledger, steps: int) -> None:
        self.line, self.source, self.ledger, self.steps = line, source, ledger, steps

    def measure(self, epoch: int, candidates: Sequence[Candidate]) -> Mapping[Candidate, ProbeResult]:
        """Probe each candidate on its own against the same frozen host."""
        side = self.line.fork()
        side.model.eval()
        for parameter in side.model.parameters():
            parameter.requires_grad_(False)
        for named in side.bank.grafted_parameters().values():
            for _, parameter in named:
                parameter.requires_grad_(False)
        order = epoch_order(side.spec.seed, epoch, len(side.task.train), "probe")
        return {candidate: self._one(side, candidate, epoch, order) for candidate in candidates}

    def _one(self, side: Line, candidate: Candidate, epoch: int, order: Tensor) -> ProbeResult:
        kernel = load_kernel(self.source.path(candidate.artifact_id), self.source.keys).to(side.device)
        kernel.reset_parameters(torch.Generator().manual_seed(mix(side.spec.seed, "probe", candidate.slot)))
        parameters = list(kernel.parameters())
        size = side.spec.training.batch_size
        calls = side.bank.slots[candidate.slot].calls
        forward = (side.bank.host_flops + kernel.flops_per_sample * calls) * size
        batches = max(1, len(order) // size)
        gradients: list[Tensor] = []
        with trying(side.bank, candidate.slot, kernel):
            before = self._held_out(side)
            for step in range(4):  # at its start the branch adds nothing, so only its last layer has a gradient
                torch.autograd.backward(self._loss(side, order, step % batches, size))
            gradients = [p.grad.detach() / 4 for p in parameters if p.grad is not None]
            norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
            drop = math.nan
            if self.steps > 0:
                optimizer = torch.optim.AdamW(parameters, side.spec.training.optimizer.learning_rate, weight_decay=0.0)
                for step in range(self.steps):
                    seed_step(mix(side.spec.seed, "probe-step", epoch), step)
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(self._loss(side, order, (4 + step) % batches, size))
                    optimizer.step()
                drop = before - self._held_out(side)
        self._charge(kernel, forward, side)
        return ProbeResult(loss_drop=drop, gradient_norm=norm, flops=float(kernel.flops_per_sample * calls))

    def _loss(self, side: Line, order: Tensor, index: int, size: int) -> Tensor:
        inputs, targets = side.task.train.batch(order[index * size : (index + 1) * size])
        outputs = side.model(inputs.to(side.device))
        return side.task.loss(outputs, targets.to(side.device)).mean()

    @torch.no_grad()
    def _held_out(self, side: Line) -> float:
        if self.steps == 0:
            return math.nan
        data = side.task.controller
        inputs, targets = data.batch(torch.arange(min(HELD_OUT, len(data))))
        return float(side.task.loss(side.model(inputs.to(side.device)), targets.to(side.device)).double().mean())

    def _charge(self, kernel: Kernel, forward: int, side: Line) -> None:
        training = TRAINING_PASSES * forward * (4 + self.steps)
        size = side.spec.training.batch_size
        held_out = 2 * min(HELD_OUT, len(side.task.controller)) * forward // size if self.steps else 0
        self.ledger.charge("probe", training + held_out)
