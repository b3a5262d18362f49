"""What 50 dormant seeds cost a training step: MLP, CNN and Transformer, side by side with the bare network.

Two copies of a network train in one process, step by step in the order A B B A: one bare, the other wrapped and with
the calls that the trainer makes around a step. Half-way they change parts, so that nothing is owed to where their
tensors lie. An observation is the ratio of one such quadruple; reported is the median ratio with a bootstrap interval.

Times are processor time of the one thread: nothing in a step waits, and other processes disturb it less.

Two controls run by the same scheme: ``A/A``, two bare networks, and ``hooks``, a forward hook that does nothing on each
of the 50 places, a cost the scheme must be able to see.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.bench.analysis import Estimate, bootstrap, median
from tests.bench.report import BELOW, Report, bounded, reported
from torch import Tensor, nn

from esper.kasmina import SlotSpec, bank_of, wrap
from esper.kasmina.wrap import unwrap
from esper.tasks.transformer import Transformer

GOAL = 1.0
"""Per cent of a step."""
SEEDS = 50


@dataclass(frozen=True)
class Host:
    """A network with places for 50 seeds. ``slots``: where, and how many feature chunks each."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]
    slots: tuple[SlotSpec, ...]


def _perceptron() -> nn.Module:
    def block(inputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, 160), nn.ReLU())

    return nn.Sequential(*[block(32 if i == 0 else 160) for i in range(10)], nn.Linear(160, 10))


def _convolutional() -> nn.Module:
    def block(inputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20), nn.ReLU())

    blocks = [block(3 if i == 0 else 20) for i in range(10)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10))


HOSTS = (
    Host(
        "MLP", _perceptron, lambda: torch.randn(64, 32), lambda: torch.randint(10, (64,)),
        tuple(SlotSpec(f"{i}", 5) for i in range(10)),
    ),
    Host(
        "CNN", _convolutional, lambda: torch.randn(16, 3, 12, 12), lambda: torch.randint(10, (16,)),
        tuple(SlotSpec(f"{i}", 5) for i in range(10)),
    ),
    Host(
        "Transformer", lambda: Transformer(40, 40, 5, 4, 4, 32), lambda: torch.randint(40, (8, 32)),
        lambda: torch.randint(40, (8, 32)), (SlotSpec("blocks.*.attn", 5), SlotSpec("blocks.*.mlp", 5)),
    ),
)  # fmt: skip


class Trained:
    """A host in training, with or without the trainer's calls around a step."""

    def __init__(self, host: Host) -> None:
        torch.manual_seed(0)
        self.host, self.model = host, host.build()
        self.inputs, self.targets = host.inputs(), host.targets()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.count = 0

    def loss(self) -> Tensor:
        """Of the one batch there is."""
        return nn.functional.cross_entropy(self.model(self.inputs).flatten(0, -2), self.targets.flatten())

    def wrap(self) -> None:
        """Give the model 50 dormant seeds."""
        training = self.model.training
        bank = wrap(self.model, self.host.slots, self.inputs[:2])
        if bank.state.rows != SEEDS:
            raise AssertionError(f"{self.host.name} has {bank.state.rows} seeds")
        self.model.train(training)

    def unwrap(self) -> None:
        """Take them away."""
        unwrap(self.model)

    def bare_step(self) -> None:
        """A training step of a loop that knows nothing of seeds."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()

    def seeded_step(self) -> None:
        """The same step as the trainer makes it."""
        bank = bank_of(self.model)
        bank.begin_step(self.count)
        self.bare_step()
        bank.isolated_step(self.loss)
        self.count += 1

    def places(self) -> list[nn.Module]:
        """The modules that carry slots, each as often as it has chunks."""
        bank = bank_of(self.model)
        return [self.model.get_submodule(slot.module_path) for slot in bank.slots.values()]


def seconds(step: Callable[[], None]) -> tuple[float, float]:
    """Processor and wall-clock seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def quadruple(a: Callable[[], None], b: Callable[[], None]) -> Pair:
    """One step each of A B B A."""
    first, second, third, fourth = seconds(a), seconds(b), seconds(b), seconds(a)
    return Pair(first[0] + fourth[0], second[0] + third[0], first[1] + fourth[1], second[1] + third[1])


@dataclass(frozen=True)
class Pair:
    """Seconds of two bare and two other steps, by processor time and by the wall clock."""

    bare: float
    other: float
    bare_wall: float
    other_wall: float


def compare(host: Host, kind: str, count: int) -> list[Pair]:
    """Quadruples of a bare model and one of a kind; the two models change parts half-way."""
    pairs: list[Pair] = []
    models = [Trained(host), Trained(host)]
    for half in range(2):
        bare, other = models if half == 0 else reversed(models)
        step, undo = dressed(other, kind)
        for _ in range(8):
            quadruple(bare.bare_step, step)
        pairs += [quadruple(bare.bare_step, step) for _ in range(count // 2)]
        undo()
    return pairs


def dressed(subject: Trained, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The step to compare with a bare one, and what undoes it afterwards."""
    subject.wrap()
    if kind == "dormant":
        return subject.seeded_step, subject.unwrap
    places = subject.places()
    subject.unwrap()
    handles = [module.register_forward_hook(_nothing) for module in places] if kind == "hooks" else []
    return subject.bare_step, lambda: [handle.remove() for handle in handles] and None


def _nothing(module: nn.Module, args: Any, output: Any) -> None:
    return None


def per_cent(ratios: list[float]) -> Estimate:
    """The median ratio as what B costs more than A."""
    return bootstrap([100.0 * (r - 1.0) for r in ratios], lambda values: float(statistics.median(values.tolist())))


def between_epochs(host: Host, rounds: int) -> tuple[Estimate, Estimate]:
    """Milliseconds of an epoch boundary, and microseconds that statistics take per slot and batch."""
    subject = Trained(host)
    subject.wrap()
    bank = bank_of(subject.model)
    subject.model.eval()
    boundaries, extra = [], []

    @torch.no_grad()
    def evaluate() -> None:
        subject.model(subject.inputs)

    for epoch in range(1, rounds + 1):
        first, _ = seconds(evaluate)
        with bank.observing():
            between = seconds(evaluate)[0] + seconds(evaluate)[0]
        extra.append((between - first - seconds(evaluate)[0]) / 2 / SEEDS * 1e6)
        boundaries.append(seconds(lambda epoch=epoch: bank.boundary(epoch))[1] * 1e3)
    return median(boundaries), median(extra)


def run(quick: bool = False) -> Report:
    """Measure the three hosts."""
    torch.set_num_threads(1)
    report = Report()
    count = 60 if quick else 400
    for host in HOSTS:
        gc.collect()
        gc.disable()
        pairs = {kind: compare(host, kind, count) for kind in ("dormant", "A/A", "hooks")}
        gc.enable()
        cost = {kind: per_cent([p.other / p.bare for p in found]) for kind, found in pairs.items()}
        wall = per_cent([p.other_wall / p.bare_wall for p in pairs["dormant"]])
        boundary, watching = between_epochs(host, count)
        step = 0.5e3 * median([p.bare for p in pairs["dormant"]]).value
        report.rows += [
            bounded(
                f"{SEEDS} dormant seeds, cost of a training step of a small {host.name}", f"<= {GOAL:g} %",
                cost["dormant"], "%", BELOW, GOAL,
                f"processor time; a bare step takes {step:.3g} ms; the A/A control beside it gives "
                f"{cost['A/A'].value:+.2f} % [{cost['A/A'].low:+.2f}, {cost['A/A'].high:+.2f}]",
            ),
            reported(f"the same by the wall clock, {host.name}", wall, "%", "other processes disturb it more"),
            reported(f"A/A control of the same, {host.name}", cost["A/A"], "%", "two bare models"),
            reported(f"{SEEDS} hooks that do nothing, {host.name}", cost["hooks"], "%", "what dormant seeds avoid"),
            reported(f"epoch boundary with {SEEDS} dormant seeds, {host.name}", boundary, "ms", "once an epoch"),
            reported(
                f"statistics of a slot, {host.name}", watching, "µs",
                "per slot and batch of the controller split, once an epoch",
            ),
        ]  # fmt: skip
        report.details[host.name] = {kind: [vars(p) for p in found] for kind, found in pairs.items()}
        print(f"{host.name}: done", flush=True)
    return report
