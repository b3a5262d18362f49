"""Real, signed artifacts in a directory, small hosts, and a loop that trains them as the trainer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.kasmina import Command, SeedBank, SeedSettings, wrap
from esper.kernel import (
    PublicKeys,
    SigningKey,
    manifest_for,
    read_artifact,
    sign_built,
    sign_validated,
    write_artifact,
)
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout
from leyline.lifecycle import Stage

BUILDER, VALIDATOR = SigningKey.generate(), SigningKey.generate()
ALL = (Layout.VECTOR, Layout.SEQUENCE)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def mlp(last: str = "zeros", factor: str = "2w") -> BlueprintIR:
    """w → 2w → w with ReLU; the last layer starts at zero unless told otherwise."""
    return BlueprintIR(
        {
            "x": node("input"),
            "a": node("linear", "x", out=factor, bias=True),
            "b": node("act", "a", fn="relu"),
            "c": node("linear", "b", out="w", bias=True, init=last),
        },
        "c",
        ALL,
    )


def squash() -> BlueprintIR:
    """A fixed function: tanh."""
    return BlueprintIR({"x": node("input"), "a": node("act", "x", fn="tanh")}, "a", ALL)


class Shelf:
    """A kernel source: artifacts that are built, signed and reported on the spot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keys = PublicKeys.of([BUILDER], [VALIDATOR])
        self.asked: list[str] = []

    def add(self, ir: BlueprintIR, interface: Interface, *, risk: float = 0.1, signed: bool = True) -> str:
        manifest = manifest_for(ir, interface, "fast", "eager", {}, saved_bytes_per_sample=0)
        artifact = read_artifact(write_artifact(self.root, manifest, {}))
        sign_built(artifact, BUILDER)
        if signed:
            sign_validated(artifact, artifact.add_report({"risk": risk}), manifest.hardware, VALIDATOR)
        return manifest.id

    def path(self, artifact_id: str) -> Path:
        self.asked.append(artifact_id)
        return self.root / artifact_id


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "artifacts")


@pytest.fixture
def blueprints() -> dict[str, Callable[..., BlueprintIR]]:
    return {"mlp": mlp, "squash": squash}


class Verdict:
    """What the judge says."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed

    def to_dict(self) -> dict[str, Any]:
        return {"effect": 0.1 if self.passed else -0.1, "p_value": 0.001, "passed": self.passed}


@pytest.fixture
def verdict() -> type[Verdict]:
    return Verdict


class Run:
    """A host in training with its bank: the loop of the trainer, in small."""

    def __init__(self, model: nn.Module, bank: SeedBank, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        self.model, self.bank, self.inputs, self.targets = model, bank, inputs, targets
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.joined: set[str] = set()
        self.step = self.epoch = 0

    def loss(self) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(self.inputs), self.targets)

    def train_step(self) -> float:
        torch.manual_seed(1000 + self.step)
        self.bank.begin_step(self.step)
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.bank.isolated_step(self.loss)
        self.step += 1
        return loss.item()

    def train_epoch(self, steps: int = 5) -> None:
        self.model.train()
        self.sync()
        for _ in range(steps):
            self.train_step()
        self.model.eval()
        with self.bank.observing(), torch.no_grad():
            self.loss()
        self.model.train()
        self.epoch += 1
        self.bank.boundary(self.epoch)

    def sync(self) -> None:
        for seed, named in self.bank.grafted_parameters().items():
            if seed not in self.joined:
                self.joined.add(seed)
                self.optimizer.add_param_group({"params": [p for _, p in named]})

    def leave(self, seed: str) -> None:
        """Take a seed's parameters out of the optimizer."""
        kernel = self.bank.seeds[seed].kernel
        gone = {id(p) for p in kernel.parameters()} if kernel is not None else set()
        self.optimizer.param_groups = [
            g for g in self.optimizer.param_groups if not any(id(p) in gone for p in g["params"])
        ]
        for parameter in list(self.optimizer.state):
            if id(parameter) in gone:
                del self.optimizer.state[parameter]
        self.joined.discard(seed)

    def bring_to(self, seed: str, stage: Stage, limit: int = 30) -> None:
        """Train and advance until the seed is in a stage."""
        for _ in range(limit):
            mine = self.bank.seeds[seed]
            if mine.stage is stage:
                return
            if mine.stage is Stage.EVALUATING:
                self.bank.set_verdict(seed, Verdict(True))
            if mine.ready:
                applied = self.bank.order(Command.advance(seed))
                assert applied.accepted, applied.reason
            else:
                self.train_epoch()
        raise AssertionError(f"{seed} is in {self.bank.seeds[seed].stage.name}: {self.bank.seeds[seed].reason}")


@pytest.fixture
def run_of() -> type[Run]:
    return Run


class Host(nn.Module):
    """Linear, ReLU, Linear, ReLU, Linear; 8 features, width 16."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.act1, self.act2 = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act2(self.second(self.act1(self.first(x)))))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(32, 8, generator=generator)
    return inputs, torch.tanh(inputs @ torch.randn(8, 4, generator=generator))


@pytest.fixture
def start(host, batch, shelf, run_of):
    """A run whose first slot germinates a kernel."""

    def build(ir, *, slot="act1", command=None, **settings):
        inputs, targets = batch
        bank = wrap(host, ["act1", "act2"], inputs, settings=SeedSettings(**settings), source=shelf)
        artifact = shelf.add(ir, bank.slots[slot].interface)
        applied = bank.order(Command.germinate(slot, artifact, blueprint="mlp", reason="plateau", **(command or {})))
        assert applied.accepted, applied.reason
        return run_of(host, bank, inputs, targets), applied.seed

    return build
