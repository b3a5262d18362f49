"""Models that have really grown: kernels signed, loaded and taken through the lifecycle by a bank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import Blend, Command, SeedBank, SeedSettings, wrap
from esper.kernel import PublicKeys, SigningKey, manifest_for, read_artifact, sign_built, sign_validated, write_artifact
from leyline import canonical
from leyline.blueprint import BlueprintIR, node
from leyline.interface import Interface, Layout
from leyline.lifecycle import Stage

LAYOUTS = tuple(Layout)
DESIGNS = {
    "mlp": BlueprintIR(
        nodes={
            "x": node("input"),
            "up": node("linear", "x", out="2w"),
            "act": node("act", "up", fn="gelu"),
            "down": node("linear", "act", out="w"),
        },
        output="down",
        layouts=(Layout.VECTOR, Layout.SEQUENCE),
    ),
    "gate": BlueprintIR(
        nodes={"x": node("input"), "g": node("linear", "x", out="w"), "y": node("mul", "x", "g")},
        output="y",
        layouts=(Layout.VECTOR, Layout.SEQUENCE),
    ),
}


@dataclass
class Nursery:
    """A kernel source with its own keys: builds, signs and hands out artifacts."""

    root: Path
    key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def keys(self) -> PublicKeys:
        return PublicKeys.of([self.key], [self.key])

    def path(self, artifact_id: str) -> Path:
        return self.root / artifact_id

    def make(self, design: str, interface: Interface) -> str:
        manifest = manifest_for(DESIGNS[design], interface, "fast", "eager", {}, saved_bytes_per_sample=0)
        path = write_artifact(self.root, manifest, {})
        report = canonical.dumps({"risk": 0.1})
        (path / "report.json").write_bytes(report)
        artifact = read_artifact(path)
        sign_built(artifact, self.key)
        sign_validated(artifact, hashlib.sha256(report).hexdigest(), manifest.hardware, self.key)
        return manifest.id


@dataclass
class Judged:
    passed: bool = True

    def to_dict(self) -> dict[str, float]:
        return {"effect": 0.061, "p_value": 0.0004}


Grow = Callable[..., SeedBank]


@pytest.fixture
def grow(tmp_path: Path) -> Grow:
    """Wrap ``model`` and grow ``plan``: (slot, design, blend, stage to stop at) in order."""
    nursery = Nursery(tmp_path / "artifacts")

    def grow(
        model: nn.Module,
        sample: Tensor,
        plan: Sequence[tuple[str, str, Blend, Stage]],
        slots: Sequence[str] | Mapping[str, int] = ("body.*",),
    ) -> SeedBank:
        settings = SeedSettings(
            max_active=8, max_per_slot=4, grafting_epochs=2, steps_per_epoch=3, output_scale_limit=1e9, max_risk=1.0
        )
        bank = wrap(model, list(slots), sample, settings=settings, source=nursery)
        for slot, design, blend, stop in plan:
            artifact = nursery.make(design, bank.slots[slot].interface)
            bank.order(Command.germinate(slot, artifact, blueprint=design, blend=blend, reason="test"))
            seed = next(reversed(bank.seeds.values()))
            _raise_seed(bank, seed.id, stop, sample)
            with torch.no_grad():
                for index, parameter in enumerate(seed.kernel.parameters()):  # type: ignore[union-attr]
                    parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(index))
        return bank

    return grow


def _raise_seed(bank: SeedBank, seed_id: str, stop: Stage, sample: Tensor) -> None:
    for epoch in range(1, 30):
        seed = bank.seeds[seed_id]
        for step in range(3):
            bank.begin_step(epoch * 3 + step)
        with torch.no_grad(), bank.observing():
            bank.model(sample)
        bank.boundary(epoch)
        if seed.stage is Stage.EVALUATING:
            bank.set_verdict(seed_id, Judged())
        if seed.ready:
            bank.order(Command.advance(seed_id, reason="test"))
        if seed.stage is stop:
            if stop is Stage.GRAFTING:  # half way up the ramp
                for step in range(3):
                    bank.begin_step((epoch + 1) * 3 + step)
            return
    raise AssertionError(
        f"{seed_id} is {bank.seeds[seed_id].stage.name}, not {stop.name}: {bank.seeds[seed_id].reason}"
    )
