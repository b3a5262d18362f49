from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.tasks import Task, TensorData, TokenData, load_task

SMALL = {"train_examples": 60, "controller_examples": 20, "report_examples": 20}
TASKS: dict[str, dict[str, object]] = {"mnist1d": SMALL, "digits": {}, "chars": {"width": 16, "depth": 1}, "vector": {}}
BRANCHED = ("mnist1d", "digits", "vector")


def bundled(name: str, seed: int = 0, **params: object) -> Task:
    return load_task(f"esper.tasks.{name}:task", {**TASKS[name], **params}, seed)


def parameters(task: Task) -> int:
    return sum(parameter.numel() for parameter in task.model.parameters())


def output(task: Task) -> torch.Tensor:
    task.model.eval()
    inputs, _ = task.train.batch(torch.arange(6))
    with torch.no_grad():
        out: torch.Tensor = task.model(inputs)
    return out


@pytest.mark.parametrize("name", TASKS)
def test_data_do_not_depend_on_the_seed_but_parameters_do(name: str) -> None:
    first, second = bundled(name, 0), bundled(name, 1)
    for split in ("train", "controller", "report"):
        a, b = getattr(first, split), getattr(second, split)
        assert len(a) == len(b)
        indices = torch.arange(min(len(a), 50))
        assert all(torch.equal(x, y) for x, y in zip(a.batch(indices), b.batch(indices), strict=True))
    assert not torch.equal(output(first), output(second))


@pytest.mark.parametrize("name", TASKS)
def test_a_few_steps_of_training_lower_the_loss(name: str) -> None:
    torch.set_num_threads(1)
    task = bundled(name)
    inputs, targets = task.train.batch(torch.arange(50))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        loss = task.loss(task.model(inputs), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", BRANCHED)
def test_branches_start_as_the_identity_and_train(name: str) -> None:
    plain, branched = bundled(name), bundled(name, branches=2)
    assert parameters(branched) > parameters(plain)
    own = plain.model.state_dict()
    shared = {key: value for key, value in branched.model.state_dict().items() if key in own}
    assert set(shared) == set(own)
    branched.model.load_state_dict({**branched.model.state_dict(), **own})
    assert torch.equal(output(plain), output(branched))
    inputs, targets = branched.train.batch(torch.arange(6))
    branched.loss(branched.model(inputs), targets).mean().backward()
    last = [p.grad for key, p in branched.model.named_parameters() if "narrow.weight" in key]
    assert len(last) > 1
    assert all(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in last)


@pytest.mark.parametrize("name", BRANCHED)
def test_branches_can_be_given_for_each_block(name: str) -> None:
    blocks = len(bundled(name).model.get_submodule("blocks"))  # type: ignore[arg-type]
    counts = [index % 2 for index in range(blocks)]
    model = bundled(name, branches=counts).model
    assert [len(model.get_submodule(f"blocks.{index}.branches")) for index in range(blocks)] == counts  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "low", "high"), [("mnist1d", 500, 700), ("digits", 300, 500), ("vector", 150, 300)])
def test_the_host_is_small_by_default(name: str, low: int, high: int) -> None:
    assert low <= parameters(bundled(name)) <= high


@pytest.mark.parametrize("name", TASKS)
def test_blocks_give_one_tensor_of_a_fixed_width(name: str) -> None:
    task = bundled(name)
    shapes: list[tuple[int, ...]] = []
    for block in task.model.get_submodule("blocks").children():
        block.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    output(task)
    axis = 2 if name == "chars" else 1
    assert len({shape[axis] for shape in shapes}) == 1
    assert all(shape[0] == 6 for shape in shapes)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_norm_can_be_chosen(norm: str) -> None:
    kinds = {type(module) for module in bundled("digits", norm=norm).model.modules()}
    assert (nn.BatchNorm2d in kinds) == (norm == "batch")
    assert isinstance(bundled("digits", norm=norm).model.get_submodule("blocks.0.norm"), nn.GroupNorm) == (
        norm == "group"
    )


def test_mnist1d_splits_are_disjoint_balanced_and_standardised() -> None:
    task = bundled("mnist1d", train_examples=600)
    splits = [task.train, task.controller, task.report]
    rows = []
    for data in splits:
        assert isinstance(data, TensorData)
        rows.append({tuple(row.flatten().tolist()) for row in data.inputs})
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]
    train = task.train
    assert isinstance(train, TensorData)
    assert train.inputs.shape == (600, 1, 40)
    assert train.inputs.std().item() == pytest.approx(1.0, abs=0.1)
    assert torch.bincount(train.targets, minlength=10).min() >= 35


def test_digit_splits_cover_every_image_once() -> None:
    task = bundled("digits")
    assert len(task.train) + len(task.controller) + len(task.report) == 1797
    assert isinstance(task.train, TensorData)
    assert isinstance(task.report, TensorData)
    seen = {tuple(row.flatten().tolist()) for row in task.train.inputs}
    assert not any(tuple(row.flatten().tolist()) in seen for row in task.report.inputs)


def test_char_splits_share_no_long_line() -> None:
    task = bundled("chars", context=32)
    texts = []
    for data in (task.train, task.controller, task.report):
        assert isinstance(data, TokenData)
        texts.append("".join(map(chr, data.tokens.tolist())))
    newline = chr(1)  # the smallest character gets the first symbol
    lines = [{line for line in text.split(newline) if len(line) > 30} for text in texts]
    assert all(len(found) > 50 for found in lines)
    assert not lines[0] & lines[2]
    assert not lines[1] & lines[2]


def test_the_char_model_does_not_see_the_future() -> None:
    task = bundled("chars", context=16, depth=2)
    task.model.eval()
    tokens, _ = task.train.batch(torch.tensor([0]))
    changed = tokens.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 50
    with torch.no_grad():
        first, second = task.model(tokens), task.model(changed)
    assert torch.allclose(first[0, :10], second[0, :10], atol=1e-6)
    assert not torch.allclose(first[0, 10:], second[0, 10:], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("chars", {"heads": 3}, "heads"),
        ("chars", {"depth": 0}, "depth"),
        ("chars", {"context": 0}, "context"),
        ("digits", {"norm": "layer"}, "norm"),
        ("digits", {"channels": 0}, "channels"),
        ("mnist1d", {"train_examples": 1}, "train_examples"),
        ("mnist1d", {"branches": [0, 0, -1]}, "branches"),
        ("vector", {"turns": -1.0}, "turns"),
    ],
)
def test_a_size_that_is_not_possible_is_named(name: str, params: dict[str, object], said: str) -> None:
    with pytest.raises(Exception, match=f"parameter.*{said}") as caught:
        bundled(name, **params)
    assert type(caught.value).__name__ == "TaskError"
