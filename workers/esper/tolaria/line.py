"""One line of training: a model, its seeds and its optimizer, advanced step by step.

A run has one line, and a second while a seed is on trial (the twin). A line knows nothing of budgets, decisions or
files: given the same state, epoch and progress it makes the same bits, in whichever process it lives.

Several ranks may train a line together. Then each sees its part of every batch, gradients are the mean over the ranks,
and parameters, optimizer and seeds hold the same bits on all of them after every step. The model's buffers don't: they
follow each rank's own part until the end of the epoch, when all take the first rank's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.errors import CheckpointMismatch, NumericalFault
from esper.tasks.running import task_code
from esper.tolaria.agreement import StepAgreement
from esper.tolaria.evaluation import Evaluation, evaluate
from esper.tolaria.optimizer import GrowingOptimizer
from esper.tolaria.randomness import epoch_order, mix, seed_process, seed_step
from esper.tolaria.ranks import ALONE, Ranks
from esper.tolaria.schedule import Progress, Schedule

if TYPE_CHECKING:
    from esper.kasmina import KernelSource, SeedBank
    from esper.tasks import Data, Task
    from leyline.resources import TrainingRunSpec

MODEL, SEEDS, OPTIMIZER = "model/", "seeds/", "optimizer/"
StepCheck = Callable[[int, float], None]


@dataclass
class Cursor:
    """Where in an epoch a line stands, with what it has summed up so far; part of every checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    gradient_norm_sum: float = 0.0
    isolation_steps: int = 0


@dataclass(frozen=True)
class EpochStats:
    """What one epoch of one line came to; times are for people and never enter a decision."""

    epoch: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    isolation_steps: int
    step_seconds: tuple[float, ...] = field(repr=False, default=())


class Stopped(Exception):
    """The line was asked to stop between two steps; its cursor says where."""


class Line:
    """Trains one model; see the module's text.

    Args:
        task: model, data, loss and metrics (the line uses ``bank.model``, not ``task.model``).
        bank: the seeds that sit in the model.
        spec: the run's specification.
        device: where model and batches are.
        ranks: who trains it together.
    """

    def __init__(
        self, task: Task, bank: SeedBank, spec: TrainingRunSpec, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        self.task, self.bank, self.spec, self.device, self.ranks = task, bank, spec, device, ranks
        ranks.check_batch(spec.training.batch_size)
        bank.peers = ranks
        self._agreement = StepAgreement(ranks, bank, spec.governor.step_timeout_seconds)
        self.model: nn.Module = bank.model
        self.step = 0
        self.cursor = Cursor()
        self.rate_scale = 1.0
        self.last_multiplier = 1.0
        self.optimizer = GrowingOptimizer(spec.training.optimizer, bank.host_parameters())
        schedule = spec.training.schedule
        self._schedule = Schedule(schedule.kind, schedule.warmup_steps, schedule.decay_fraction)
        # what a step draws (dropout, say) belongs to its examples, so each rank draws for its own
        self._apart: tuple[int | str, ...] = () if ranks.first else ("rank", ranks.rank)
        self._stream = mix(spec.seed, "step", *self._apart)
        self._autocast = spec.training.precision == "BFloat16"

    # -- training ------------------------------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a full epoch; the remainder of each epoch's permutation is left out."""
        training = self.spec.training
        available = len(self.task.train) // (training.batch_size * training.gradient_accumulation)
        return available if training.steps_per_epoch is None else min(training.steps_per_epoch, available)

    def train_epoch(
        self,
        epoch: int,
        progress: Progress,
        stop: Callable[[], bool] = lambda: False,
        check: StepCheck | None = None,
    ) -> EpochStats:
        """Train one epoch, or what is left of it when the cursor stands inside it.

        Args:
            epoch: 1-based; decides data order and random numbers.
            progress: the budget's share at its first and after its last step, and its number of steps.
            stop: asked before each step.
            check: called after each step with (step in epoch, loss); raises to end the epoch.

        Raises:
            Stopped: ``stop`` said so; training can go on later from the cursor.
            NumericalFault: a loss is not finite.
        """
        if self.cursor.epoch != epoch:
            self.cursor = Cursor(epoch)
        cursor, times = self.cursor, []
        self.sync_optimizer()
        seed_process(mix(self.spec.seed, "epoch", epoch, *self._apart))
        order = epoch_order(self.spec.seed, epoch, len(self.task.train))
        self.model.train()
        rate = 0.0
        while cursor.step_in_epoch < progress.steps:
            if stop():
                raise Stopped
            began = time.perf_counter()
            rate = self._schedule.multiplier(progress.at(cursor.step_in_epoch), self.step) * self.rate_scale
            loss, norm = self.train_step(order, cursor.step_in_epoch, rate)
            cursor.step_in_epoch += 1
            cursor.loss_sum += loss
            cursor.gradient_norm_sum += norm
            times.append(time.perf_counter() - began)
            if not math.isfinite(loss):
                raise NumericalFault(f"the training loss became {loss} at step {self.step} of epoch {epoch}")
            if check is not None:
                check(cursor.step_in_epoch, loss)
        self.unite()
        steps = max(1, cursor.step_in_epoch)
        return EpochStats(
            epoch, cursor.step_in_epoch, cursor.loss_sum / steps, cursor.gradient_norm_sum / steps,
            rate * self.spec.training.optimizer.learning_rate, cursor.isolation_steps, tuple(times),
        )  # fmt: skip

    def train_step(self, order: Tensor, index: int, rate: float) -> tuple[float, float]:
        """One optimizer step on the ``index``-th batch of the order; returns (mean loss, gradient norm)."""
        training = self.spec.training
        seed_step(self._stream, self.step, self.device.type == "cuda")
        self.bank.begin_step(self.step)
        self.last_multiplier = rate
        self.optimizer.set_multiplier(rate)
        self.optimizer.inner.zero_grad(set_to_none=True)
        if self.ranks.alone:
            loss, batch = self._backward(order, index)
        else:
            loss, batch = self._agreement.step(list(self.optimizer.parameters()), lambda: self._backward(order, index))
        norm = self._clip(training.gradient_clip)
        self.optimizer.inner.step()
        if self.bank.isolated_step(lambda: self._loss(*batch)):
            self.cursor.isolation_steps += 1
        self.step += 1
        return loss, norm

    def _backward(self, order: Tensor, index: int) -> tuple[float, tuple[Tensor, Tensor]]:
        """Gradients of this rank's part of the ``index``-th batch; returns (mean loss, the last micro-batch)."""
        total = 0.0
        size, parts = self.spec.training.batch_size, self.spec.training.gradient_accumulation
        own = size // self.ranks.world
        for part in range(parts):
            start = (index * parts + part) * size + self.ranks.rank * own
            inputs, targets = self._batch(self.task.train, order[start : start + own])
            loss = self._loss(inputs, targets)
            torch.autograd.backward(loss / parts if parts > 1 else loss)
            total += loss.item()
        return total / parts, (inputs, targets)

    def unite(self) -> None:
        """Make what the ranks hold apart the same: buffers become the first rank's, measurements their mean."""
        if self.ranks.alone:
            return
        kernels = [seed.kernel for seed in self.bank.seeds.values() if seed.kernel is not None]
        self.ranks.spread([buffer for module in (self.model, *kernels) for buffer in module.buffers()])
        self.bank.unite()

    def _batch(self, data: Data, indices: Tensor) -> tuple[Tensor, Tensor]:
        with task_code("data"):
            inputs, targets = data.batch(indices)
        return inputs.to(self.device), targets.to(self.device)

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with task_code("model"), torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            outputs = self.model(inputs)
        with task_code("loss"):
            return self.task.loss(outputs.float(), targets).mean()

    def _clip(self, limit: float | None) -> float:
        if limit is None:
            return 0.0
        parameters = [p for p in self.optimizer.parameters() if p.grad is not None]
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))

    @property
    def parameters(self) -> int:
        """Parameters of the host and of every loaded kernel."""
        own = sum(p.numel() for p in self.model.parameters())
        kernels = [seed.kernel for seed in self.bank.seeds.values() if seed.kernel is not None]
        return own + sum(p.numel() for kernel in kernels for p in kernel.parameters())

    def sync_optimizer(self) -> None:
        """Let the optimizer's groups be the grafted seeds that train now: join the new, drop the gone."""
        grafted = self.bank.grafted_parameters()
        wanted = {f"seed:{seed}": named for seed, named in grafted.items()}
        for group in self.optimizer.groups[1:]:
            if group not in wanted:
                self.optimizer.leave(group)
        for group, named in wanted.items():
            if group not in self.optimizer.groups:
                self.optimizer.join(group, named, self.spec.seeds.learning_rate_scale)

    def evaluate(self, data: Data) -> Evaluation:
        """Loss and metrics on a split, in eval mode."""
        found = evaluate(self.model, self.task, data, self.device, self.ranks)
        if not self.ranks.alone:
            self.bank.agree_on_faults()
        return found

    # -- state ---------------------------------------------------------------------------------------------------

    def export_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of everything that decides the line's future bits."""
        self.sync_optimizer()
        tensors = {MODEL + name: value.detach().clone() for name, value in self._model_tensors().items()}
        seeds, seeds_meta = self.bank.export_state()
        optimizer, optimizer_meta = self.optimizer.export_state()
        tensors.update({SEEDS + name: value.detach().clone() for name, value in seeds.items()})
        tensors.update({OPTIMIZER + name: value for name, value in optimizer.items()})
        meta = {
            "step": self.step,
            "cursor": asdict(self.cursor),
            "rate_scale": self.rate_scale,
            "last_multiplier": self.last_multiplier,
            "seeds": seeds_meta,
            "optimizer": optimizer_meta,
        }
        return tensors, meta

    def import_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], source: KernelSource) -> None:
        """Put the line exactly where an exported one was; tensors are copied in place, the model object stays.

        Raises:
            CheckpointMismatch: the state belongs to a model with other parameters.
        """
        model = {name[len(MODEL) :]: value for name, value in tensors.items() if name.startswith(MODEL)}
        own = self._model_tensors()
        wrong = sorted(set(own) ^ set(model)) or sorted(n for n in own if own[n].shape != model[n].shape)
        if wrong:
            raise CheckpointMismatch(
                f"the saved state is of another model: {wrong[0]!r} "
                f"{'differs in shape' if wrong[0] in own and wrong[0] in model else 'is only in one of them'} "
                f"({len(wrong)} such tensors); resume with the manifest and task the run began with"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(model[name])
        self.bank.import_state(
            {name[len(SEEDS) :]: value for name, value in tensors.items() if name.startswith(SEEDS)},
            meta["seeds"],
            source,
        )
        self._import_optimizer(tensors, meta["optimizer"])
        self.step = meta["step"]
        self.cursor = Cursor(**meta["cursor"])
        self.rate_scale = meta["rate_scale"]
        self.last_multiplier = meta["last_multiplier"]

    def adopt(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, Tensor]:
        """Become the twin whose exported state this is, in place; the seed it lacks leaves model and optimizer.

        Returns:
            The twin's host tensors by name.
        """
        host = {name[len(MODEL) :]: value for name, value in tensors.items() if name.startswith(MODEL)}
        seeds = {name[len(SEEDS) :]: value for name, value in tensors.items() if name.startswith(SEEDS)}
        self.bank.adopt(({**seeds, **{f"host/{name}": value for name, value in host.items()}}, meta["seeds"]))
        self._import_optimizer(tensors, meta["optimizer"])
        return host

    def _import_optimizer(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        grafted = {f"seed:{seed}": named for seed, named in self.bank.grafted_parameters().items()}
        own = {name[len(OPTIMIZER) :]: value for name, value in tensors.items() if name.startswith(OPTIMIZER)}
        self.optimizer.import_state(own, meta, grafted)

    def _model_tensors(self) -> dict[str, Tensor]:
        """Parameters and all buffers by name; ``state_dict`` would leave out buffers that are not persistent."""
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def fork(self, without: str | None = None) -> Line:
        """A copy that shares no tensor with this line, without one seed if asked."""
        _, bank = self.bank.fork(without=without)
        other = Line(self.task, bank, self.spec, self.device, self.ranks)
        tensors, meta = self.optimizer.export_state()
        grafted = {f"seed:{seed}": named for seed, named in bank.grafted_parameters().items()}
        keep = [entry for entry in meta["groups"] if entry["group"] == "host" or entry["group"] in grafted]
        left = {name: value for name, value in tensors.items() if not _of_group(name, f"seed:{without}")}
        other.optimizer.import_state(left, {"groups": keep}, grafted)
        other.step, other.rate_scale, other.last_multiplier = self.step, self.rate_scale, self.last_multiplier
        other.cursor = Cursor(**asdict(self.cursor))
        return other


def _of_group(name: str, group: str) -> bool:
    return name.startswith(group + ":")
