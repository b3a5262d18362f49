"""A grown model comes back as a plain module with the same bits, whatever its shape."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import ModelError
from esper.kasmina import Blend, SeedBank
from esper.persist import Grown, load_model, read_lineage, save_model
from leyline.lifecycle import Stage

Grow = Callable[..., SeedBank]
KEPT, RAMP = Stage.FOSSILIZED, Stage.GRAFTING


class Net(nn.Module):
    """Slots ``body.0`` and ``body.1``, a batch norm for buffers, a cache outside the state."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3)
        self.register_buffer("shift", torch.zeros(width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x) + self.shift).relu())


class Shared(nn.Module):
    """One module under two names and in a list, called three times a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(8, 8)])
        self.again = self.body[0]
        self.order = [self.body[0], (self.again,)]

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.order[1][0](self.body[0](x))))


class Peeking(nn.Module):
    """A host that uses its slot's attributes, ties a weight to it and adds in place to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(8, 8, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        u = self.body[0](x)
        u.add_(1.0)
        return nn.functional.linear(u, self.body[0].weight) / self.body[0].in_features


class Nested(nn.Module):
    """A slot inside another slot."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.Tanh())])

    def forward(self, x: Tensor) -> Tensor:
        return self.body[0](x)


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(6, 8)])

    def forward(self, x: Tensor) -> Tensor:
        return self.body[0](x)


def trained(model: nn.Module, bank: SeedBank, x: Tensor) -> Tensor:
    """Move batch statistics and loose buffers away from their initial values, then the outputs in evaluation mode."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(x * 2 + 1)
        for _, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(0.25)
    model.eval()
    return model(x)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], list[tuple[str, str, Blend, Stage]]]] = {
    "one kept": (Net, (5, 8), ["body.*"], [("body.0", "mlp", Blend.RESIDUAL, KEPT)]),
    "convex": (Net, (5, 8), ["body.*"], [("body.1", "gate", Blend.CONVEX, KEPT)]),
    "half way": (Net, (5, 8), ["body.*"], [("body.1", "mlp", Blend.CONVEX, RAMP)]),
    "stacked": (
        Net,
        (5, 8),
        ["body.*"],
        [
            ("body.0", "mlp", Blend.RESIDUAL, KEPT),
            ("body.0", "gate", Blend.CONVEX, KEPT),
            ("body.1", "gate", Blend.RESIDUAL, RAMP),
        ],
    ),
    "shared": (Shared, (5, 8), ["body.0"], [("body.0", "mlp", Blend.RESIDUAL, KEPT)]),
    "peeking": (Peeking, (5, 8), ["body.0"], [("body.0", "gate", Blend.CONVEX, KEPT)]),
    "nested": (
        Nested,
        (5, 8),
        ["body.0", "body.0.0"],
        [("body.0", "mlp", Blend.RESIDUAL, KEPT), ("body.0.0", "gate", Blend.RESIDUAL, KEPT)],
    ),
    "sequence": (Sequences, (3, 4, 6), ["body.0"], [("body.0", "mlp", Blend.RESIDUAL, KEPT)]),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_in_evaluation_mode_are_the_same_bits(case: str, grow: Grow, tmp_path: Path) -> None:
    make, shape, slots, plan = CASES[case]
    torch.manual_seed(1)
    model, x = make(), torch.randn(shape)
    bank = grow(model, x, plan, slots)
    assert all(0 < seed.alpha < 1 if seed.stage is RAMP else seed.alpha == 1 for seed in bank.seeds.values())
    expected = trained(model, bank, x)
    host_alone = make()
    host_alone.load_state_dict(model.state_dict())
    assert not torch.equal(host_alone.eval()(x), expected)  # or the test would not see the kernels

    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", host=make())
    assert not loaded.training
    assert torch.equal(loaded(x), expected)
    assert torch.equal(loaded(x[:2]), model(x[:2]))
    assert torch.equal(copy.deepcopy(loaded)(x), expected)


def test_chunks_grow_each_on_its_own(grow: Grow, tmp_path: Path) -> None:
    from esper.kasmina import SlotSpec

    torch.manual_seed(2)
    model, x = Net(), torch.randn(5, 8)
    plan = [("body.0#1", "mlp", Blend.RESIDUAL, KEPT)]
    bank = grow(model, x, plan, [SlotSpec("body.0", chunks=2)])
    expected = trained(model, bank, x)
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model", host=Net())(x), expected)


def test_what_is_loaded_is_an_ordinary_module(grow: Grow, tmp_path: Path) -> None:
    model, x = Net(), torch.randn(5, 8)
    bank = grow(model, x, [("body.0", "mlp", Blend.RESIDUAL, KEPT)])
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", host=Net())
    grown = sum(parameter.numel() for parameter in loaded.parameters())
    assert grown == bank.parameters_used
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.modules())
    again = load_model(tmp_path / "model", host=Net())
    again.load_state_dict(loaded.state_dict())

    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    loaded.train()
    loaded(x).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in loaded.state_dict().items() if not torch.equal(value, before[name])}
    assert any("kernel" in name for name in changed)
    assert any("head" in name for name in changed)


@pytest.mark.parametrize("strict", [False, True])
def test_it_can_be_exported_with_a_batch_of_any_size(grow: Grow, tmp_path: Path, strict: bool) -> None:
    model, x = Net(), torch.randn(5, 8)
    grow(model, x, [("body.0", "mlp", Blend.RESIDUAL, KEPT), ("body.1", "gate", Blend.CONVEX, RAMP)])
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model", host=Net())
    program = torch.export.export(
        loaded, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}}, strict=strict
    )
    for batch in (1, 5, 9):
        sample = torch.randn(batch, 8)
        torch.testing.assert_close(program.module()(sample), loaded(sample))


def test_a_model_that_never_grew_and_one_that_was_never_wrapped_are_saved_too(grow: Grow, tmp_path: Path) -> None:
    wrapped, bare, x = Net(), Net(), torch.randn(5, 8)
    grow(wrapped, x, [])
    for name, model in (("wrapped", wrapped), ("bare", bare)):
        save_model(model, tmp_path / name)
        loaded = load_model(tmp_path / name, host=Net())
        assert torch.equal(loaded(x), model.eval()(x))
        assert not any(isinstance(module, Grown) for module in loaded.modules())


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    model = tied()
    save_model(model, tmp_path / "model")
    loaded: Any = load_model(tmp_path / "model", host=tied())
    assert loaded[0].weight is loaded[1].weight
    assert torch.equal(loaded[0].weight, model[0].weight)  # type: ignore[arg-type]


def test_a_cache_that_only_a_forward_pass_makes_does_not_make_it_another_host(tmp_path: Path) -> None:
    model = Net()
    model.register_buffer("cache", torch.ones(3), persistent=False)
    save_model(model, tmp_path / "model")
    fresh = Net()
    fresh.register_buffer("cache", torch.zeros(7), persistent=False)
    loaded = load_model(tmp_path / "model", host=fresh)
    assert torch.equal(loaded.cache, torch.zeros(7))


def test_the_lineage_says_where_everything_came_from(grow: Grow, tmp_path: Path) -> None:
    model, x = Net(), torch.randn(5, 8)
    grow(model, x, [("body.0", "mlp", Blend.RESIDUAL, KEPT), ("body.1", "gate", Blend.CONVEX, RAMP)])
    task = {"ref": "tests:net", "params": {"width": 8}, "seed": 3}
    save_model(model, tmp_path / "model", {"task": task, "name": "first", "verdicts": {"body.1/0": [{"p": 0.5}]}})
    lineage = read_lineage(tmp_path / "model")
    assert lineage.host.task is not None
    assert lineage.host.task.model_dump() == task
    assert lineage.run == {"name": "first"}
    kept, ramp = (slot.kernels[0] for slot in lineage.slots)
    assert (kept.seed, kept.blueprint, kept.alpha, kept.stage) == ("body.0/0", "mlp", None, "FOSSILIZED")
    assert kept.verdicts == [{"effect": 0.061, "p_value": 0.0004}]
    assert (ramp.blend, ramp.verdicts) == ("Convex", [{"p": 0.5}])
    assert kept.artifact_id.startswith(tuple("0123456789abcdef"))


@pytest.mark.parametrize(
    ("lineage", "said"),
    [
        ({"task": {"name": "x"}}, "host.task"),
        ({"task": "esper.tasks.digits:task"}, "host.task"),
        ({"at": object()}, "object"),
    ],
)
def test_a_lineage_of_another_form_is_refused_and_nothing_is_written(
    tmp_path: Path, lineage: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        save_model(Net(), tmp_path / "model", lineage)
    assert list(tmp_path.iterdir()) == []


def test_without_a_host_the_task_builds_it(grow: Grow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.tasks import load_task

    params = {"channels": 4}
    task = load_task("esper.tasks.digits:task", params, 5)
    save_model(
        task.model, tmp_path / "model", {"task": {"ref": "esper.tasks.digits:task", "params": params, "seed": 5}}
    )
    inputs, _ = task.report.batch(torch.arange(4))
    assert torch.equal(load_model(tmp_path / "model")(inputs), task.model.eval()(inputs))


def test_loading_brings_neither_the_library_nor_pickle(grow: Grow, tmp_path: Path) -> None:
    import subprocess

    model, x = Net(), torch.randn(5, 8)
    grow(model, x, [("body.0", "mlp", Blend.RESIDUAL, KEPT)])
    save_model(model, tmp_path / "model")
    code = (
        "import sys, pickle\n"
        "def refuse(*args, **kwargs): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "import importlib.util, torch\n"
        f"spec = importlib.util.spec_from_file_location('here', {str(Path(__file__))!r})\n"
        "here = importlib.util.module_from_spec(spec); spec.loader.exec_module(here)\n"
        f"model = here.load_model({str(tmp_path / 'model')!r}, host=here.Net())\n"
        "assert model(torch.zeros(2, 8)).shape == (2, 3)\n"
        "assert not any(name.startswith(('esper.urza', 'sqlalchemy')) for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
