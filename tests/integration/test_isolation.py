"""A seed in isolation leaves no trace: 200 steps with it give the host the very bits of 200 steps without it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.kasmina import Command, SeedSettings, bank_of, wrap
from esper.kernel import PublicKeys, SigningKey, manifest_for, read_artifact, sign_built, sign_validated, write_artifact
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Layout
from leyline.lifecycle import Stage
from leyline.resources.enums import Blend, Objective

STEPS = 200
OBJECTIVES = [Objective.RECONSTRUCTION, Objective.SHADOW, Objective.TASK, Objective.NONE]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.ReLU(inplace=True))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.two(self.one(x))).mean(-1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.blocks = nn.ModuleList([Block(16), Block(16)])
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.embed(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


HOSTS = {
    "mlp": (Mlp, (32, 8), "net.1"),
    "cnn": (Cnn, (16, 2, 12), "one"),
    "transformer": (Transformer, (8, 6, 4), "blocks.0"),
}


def recipe(layout: Layout) -> BlueprintIR:
    if layout is Layout.IMAGE1D:
        nodes = {
            "x": node("input"),
            "a": node("conv1d", "x", out="w", kernel=3),
            "b": node("act", "a", fn="relu"),
            "c": node("conv1d", "b", out="w", kernel=3),
        }
    else:
        nodes = {
            "x": node("input"),
            "a": node("linear", "x", out="2w"),
            "b": node("act", "a", fn="relu"),
            "c": node("linear", "b", out="w"),
        }
    return BlueprintIR(nodes, "c", (layout,))


class Shelf:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.built, self.validated = SigningKey.generate(), SigningKey.generate()
        self.keys = PublicKeys.of([self.built], [self.validated])

    def add(self, ir, interface) -> str:
        manifest = manifest_for(ir, interface, "fast", "eager", {}, saved_bytes_per_sample=0)
        artifact = read_artifact(write_artifact(self.root, manifest, {}))
        sign_built(artifact, self.built)
        sign_validated(artifact, artifact.add_report({"risk": 0.1}), manifest.hardware, self.validated)
        return manifest.id

    def path(self, artifact_id: str) -> Path:
        return self.root / artifact_id


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def digest(tensors) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        found.update(bits(tensor))
    return found.digest()


class Line:
    """One training line, optionally with a seed that learns in isolation from the first step on."""

    def __init__(self, kind: str, objective: Objective | None, blend: Blend, shelf: Shelf | None) -> None:
        build, shape, slot = HOSTS[kind]
        torch.manual_seed(3)
        self.model = build()
        data = torch.Generator().manual_seed(5)
        self.inputs = [torch.randn(shape, generator=data) for _ in range(8)]
        self.targets = [torch.randint(0, 3, (shape[0],), generator=data) for _ in range(8)]
        self.bank = None
        if objective is not None:
            settings = SeedSettings(run_seed=9, objective=objective, blend=blend, isolation_learning_rate=3e-3)
            self.bank = wrap(self.model, slot, self.inputs[0], settings=settings, source=shelf)
            interface = self.bank.slots[slot].interface
            self.bank.order(Command.germinate(slot, shelf.add(recipe(interface.layout), interface)))
            self.bank.boundary(1)
            self.bank.boundary(2)
            assert self.seed.stage is Stage.TRAINING, self.seed.reason
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.trace: list[bytes] = []

    @property
    def seed(self):
        return next(iter(self.bank.seeds.values()))

    def loss(self, index: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.inputs[index]), self.targets[index])

    def run(self, steps: int) -> None:
        self.model.train()
        for step in range(steps):
            torch.manual_seed(step) if step % 50 == 0 else None
            index = step % len(self.inputs)
            if self.bank is not None:
                self.bank.begin_step(step)
            self.optimizer.zero_grad(set_to_none=True)
            output = self.model(self.inputs[index])
            loss = nn.functional.cross_entropy(output, self.targets[index])
            loss.backward()
            gradients = digest(p.grad for p in self.model.parameters())
            self.trace += [bits(output), bits(loss), gradients]
            self.optimizer.step()
            if self.bank is not None:
                self.bank.isolated_step(lambda index=index: self.loss(index))
            # the isolated step must leave .grad as the host's backward pass left it
            assert digest(p.grad for p in self.model.parameters()) == gradients
            self.trace += [digest([torch.get_rng_state()]), digest(self.model.buffers())]

    def final(self) -> dict[str, bytes]:
        state = {name: bits(tensor) for name, tensor in self.model.state_dict().items()}
        for index, parameter in enumerate(self.model.parameters()):
            for key, value in self.optimizer.state[parameter].items():
                state[f"{index}.{key}"] = bits(value)
        return state


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


CASES = [(kind, objective, Blend.RESIDUAL) for kind in HOSTS for objective in OBJECTIVES]
CASES += [(kind, Objective.RECONSTRUCTION, Blend.CONVEX) for kind in HOSTS]
CASES += [("cnn", Objective.SHADOW, Blend.CONVEX), ("mlp", Objective.TASK, Blend.CONVEX)]


@cache
def without_seed(kind: str) -> Line:
    line = Line(kind, None, Blend.RESIDUAL, None)
    line.run(STEPS)
    return line


@pytest.mark.parametrize(("kind", "objective", "blend"), CASES)
def test_host_is_bit_identical_with_a_seed_in_isolation(kind, objective, blend, tmp_path):
    plain = without_seed(kind)
    seeded = Line(kind, objective, blend, Shelf(tmp_path))
    before = [bits(p) for p in seeded.seed.kernel.parameters()]
    seeded.run(STEPS)
    assert plain.trace == seeded.trace
    assert plain.final() == seeded.final()
    assert list(plain.model.state_dict()) == list(seeded.model.state_dict())
    after = [bits(p) for p in seeded.seed.kernel.parameters()]
    # the comparison above would be worth nothing if the seed had not learned
    assert (before == after) == (objective is Objective.NONE)
    assert all(p.grad is None for p in seeded.seed.kernel.parameters())
    if objective is not Objective.NONE:
        assert seeded.seed.learner.trace.steps == STEPS
        assert seeded.seed.learner.trace.nonfinite_losses == 0


@pytest.mark.parametrize("blend", [Blend.RESIDUAL, Blend.CONVEX])
def test_reconstruction_makes_the_blended_output_equal_the_activation(blend, tmp_path):
    line = Line("mlp", Objective.RECONSTRUCTION, blend, Shelf(tmp_path))
    line.run(STEPS)
    trace = line.seed.learner.trace
    assert trace.last < 0.2 * trace.first


def test_task_objective_is_bounded_by_the_output_scale(tmp_path):
    line = Line("mlp", Objective.TASK, Blend.RESIDUAL, Shelf(tmp_path))
    line.run(2 * STEPS)
    assert line.seed.learner.trace.scale < 1.25 * bank_of(line.model).settings.output_scale_limit


def test_shadow_objective_lowers_the_loss_of_the_network_with_the_seed_on(tmp_path):
    line = Line("transformer", Objective.SHADOW, Blend.RESIDUAL, Shelf(tmp_path))
    line.run(STEPS)
    trace = line.seed.learner.trace
    assert trace.last < trace.first


def test_a_seed_that_will_not_affect_the_host_leaves_evaluation_alone(tmp_path):
    plain = Line("cnn", None, Blend.RESIDUAL, Shelf(tmp_path))
    seeded = Line("cnn", Objective.TASK, Blend.RESIDUAL, Shelf(tmp_path))
    for line in (plain, seeded):
        line.run(20)
        line.model.eval()
    with torch.no_grad():
        expected = plain.model(plain.inputs[0])
        with seeded.bank.observing():
            assert bits(seeded.model(seeded.inputs[0])) == bits(expected)
        assert bits(seeded.model(seeded.inputs[0])) == bits(expected)
