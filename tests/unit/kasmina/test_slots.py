"""Wrapping: which modules become slots, what is refused, and that nothing of the model changes."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.errors import SlotError
from esper.kasmina import Command, SlotSpec, bank_of, host_flops, unwrap, wrap
from leyline.interface import Layout
from leyline.resources import SlotSpec as ManifestSlot


class Twice(nn.Module):
    """One module under two names, another one called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.again = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(torch.relu(self.again(self.b(x))))


class Reshaping(nn.Module):
    """A module whose output has two shapes in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.lin = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.lin(self.act(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Noisy(nn.Module):
    """What a sample pass could disturb: BatchNorm, dropout, a buffer that is replaced, one outside the state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("noise", torch.zeros(3), persistent=False)
        self.frozen = nn.Dropout(0.1).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        self.noise.copy_(torch.rand(3))
        return self.frozen(self.drop(self.norm(self.conv(x)))).mean(-1)


def blocks() -> nn.Module:
    model = nn.Sequential()
    model.add_module("stem", nn.Linear(8, 16))
    model.add_module("blocks", nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)]))
    model.add_module("head", nn.Linear(16, 2))
    return model


def test_globs_stay_within_a_name_unless_doubled():
    x = torch.randn(4, 8)
    assert list(wrap(blocks(), "blocks.*", x).slots) == ["blocks.0", "blocks.1", "blocks.2"]
    assert list(wrap(blocks(), "blocks.**", x).slots) == [
        "blocks.0.0", "blocks.0.1", "blocks.0", "blocks.1.0", "blocks.1.1", "blocks.1",
        "blocks.2.0", "blocks.2.1", "blocks.2",
    ]  # fmt: skip
    assert list(wrap(blocks(), "blocks.[02]", x).slots) == ["blocks.0", "blocks.2"]
    assert list(wrap(blocks(), "blocks.[!0].?", x).slots) == ["blocks.1.0", "blocks.1.1", "blocks.2.0", "blocks.2.1"]
    assert list(wrap(blocks(), ["head", "stem", "st*"], x).slots) == ["stem", "head"]


def test_slots_of_a_manifest_fit():
    bank = wrap(blocks(), [ManifestSlot(path="blocks.1", chunks=4)], torch.randn(4, 8))
    assert list(bank.slots) == [f"blocks.1#{k}" for k in range(4)]
    assert {slot.interface.width for slot in bank.slots.values()} == {4}


def test_a_glob_without_a_match_names_the_nearest():
    with pytest.raises(SlotError, match=r"'block\.1' matches no module.*'blocks\.1'"):
        wrap(blocks(), "block.1", torch.randn(4, 8))
    with pytest.raises(SlotError, match="no slots were given"):
        wrap(blocks(), [], torch.randn(4, 8))


@given(st.text("abc.*?[]!-\\0", min_size=1, max_size=12))
def test_no_glob_does_worse_than_a_slot_error(glob):
    model = nn.Sequential(nn.Linear(2, 2))
    with contextlib.suppress(SlotError):
        assert wrap(model, glob, torch.randn(2, 2)).slots


def test_layouts_follow_rank_and_module():
    conv = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU()))
    bank = wrap(conv, "*", torch.randn(5, 2, 9))
    assert {slot.interface.layout for slot in bank.slots.values()} == {Layout.IMAGE1D}
    assert bank.slots["2"].interface.width == 4
    assert bank.slots["2"].interface.trailing == (7,)
    tokens = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.LayerNorm(6), nn.Dropout(0.1))
    bank = wrap(tokens, "*", torch.randn(5, 9, 3))
    assert {slot.interface.layout for slot in bank.slots.values()} == {Layout.SEQUENCE}
    assert bank.slots["1"].interface.shape(5) == (5, 9, 6)
    image = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2))
    bank = wrap(image, "*", torch.randn(5, 3, 8, 8))
    assert [slot.interface.layout for slot in bank.slots.values()] == [Layout.IMAGE2D] * 3 + [Layout.VECTOR] * 2
    forced = wrap(nn.Sequential(nn.Linear(3, 6)), [SlotSpec("0", layout=Layout.IMAGE1D)], torch.randn(5, 9, 3))
    assert forced.slots["0"].interface.width == 9


def test_channels_last_images_are_refused():
    with pytest.raises(SlotError, match=r"slot '0'.*\(B,C,H,W\)"):
        wrap(nn.Sequential(nn.Linear(3, 6)), "0", torch.randn(2, 4, 4, 3))


def test_a_shared_module_is_one_slot_with_aliases():
    bank = wrap(Twice(), ["a", "b", "again"], torch.randn(4, 6))
    assert list(bank.slots) == ["a", "again"]
    assert bank.slots["a"].aliases == ("b",)
    assert bank.slots["a"].calls == 1
    assert bank.slots["again"].calls == 2
    assert list(wrap(Twice(), "b", torch.randn(4, 6)).slots) == ["b"]


def test_one_module_can_not_be_cut_in_two_ways():
    with pytest.raises(SlotError, match="with 2 and with 3 chunks"):
        wrap(Twice(), [SlotSpec("a", 2), SlotSpec("b", 3)], torch.randn(4, 6))
    with pytest.raises(SlotError, match="6 features don't divide into 4 chunks"):
        wrap(Twice(), [SlotSpec("a", 4)], torch.randn(4, 6))


def test_outputs_that_can_not_carry_a_seed_are_refused_by_name():
    with pytest.raises(SlotError, match=r"slot 'lstm': LSTM returns a tuple.*'head'"):
        wrap(Recurrent(), "lstm", torch.randn(4, 5, 4))
    with pytest.raises(SlotError, match=r"slot 'act': its output changes between calls"):
        wrap(Reshaping(), "act", torch.randn(4, 6))
    with pytest.raises(SlotError, match="did not run"):
        wrap(_WithUnused(), "unused", torch.randn(4, 2))
    with pytest.raises(SlotError, match="does not have the batch of 4 first"):
        wrap(_TimeFirst(), "mix", torch.randn(4, 5, 3))


class _WithUnused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class _TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x.transpose(0, 1)).mean(0)


def test_a_sample_the_model_does_not_take_is_explained():
    with pytest.raises(SlotError, match="could not be run through Sequential"):
        wrap(blocks(), "stem", torch.randn(4, 9))
    with pytest.raises(SlotError, match="holds no tensor"):
        wrap(blocks(), "stem", ())


def test_the_sample_pass_leaves_nothing_behind():
    torch.manual_seed(1)
    model = Noisy()
    model(torch.randn(3, 2, 5)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objects = {name: id(buffer) for name, buffer in model.named_buffers()}
    flags = [module.training for module in model.modules()]
    rng = torch.get_rng_state()
    wrap(model, "norm", torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in model.modules()] == flags
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name])
        assert id(buffer) == objects[name]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])


def test_wrapping_changes_neither_state_dict_nor_class_nor_hooks():
    model = blocks()
    plain = copy.deepcopy(model)
    bank = wrap(model, "blocks.*", torch.randn(4, 8))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert type(model) is nn.Sequential
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    x = torch.randn(5, 8)
    assert torch.equal(model(x), plain(x))
    assert bank_of(model) is bank
    assert copy.deepcopy(model)[0].weight.shape == (16, 8)


def test_wrapping_twice_is_refused_until_unwrapped():
    model = blocks()
    wrap(model, "stem", torch.randn(4, 8))
    with pytest.raises(SlotError, match="wrapped already"):
        wrap(model, "head", torch.randn(4, 8))
    assert unwrap(model) is model
    with pytest.raises(SlotError, match="not wrapped"):
        bank_of(model)
    assert list(wrap(model, "head", torch.randn(4, 8)).slots) == ["head"]


def test_a_failed_wrap_leaves_the_model_unwrapped():
    model = blocks()
    with pytest.raises(SlotError):
        wrap(model, "nowhere", torch.randn(4, 8))
    with pytest.raises(SlotError, match="not wrapped"):
        bank_of(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_without_a_sample_the_first_forward_pass_measures():
    model = blocks()
    bank = wrap(model, "blocks.*")
    assert bank.slots == {}
    copied = copy.deepcopy(model)
    copied(torch.randn(3, 8))
    assert bank.slots == {}
    expected = copied(torch.ones(3, 8))
    assert torch.equal(model(torch.ones(3, 8)), expected)
    assert list(bank.slots) == ["blocks.0", "blocks.1", "blocks.2"]
    assert not model._forward_pre_hooks


def test_a_bank_does_not_keep_its_model_alive():
    model = blocks()
    bank = wrap(model, "blocks.*", torch.randn(4, 8))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(SlotError, match="is gone"):
        _ = bank.model


def test_samples_may_be_tuples_and_keyword_arguments():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.mix(x) * scale

    x, scale = torch.randn(4, 3), torch.ones(4, 1)
    assert wrap(Two(), "mix", (x, scale)).slots["mix"].interface.width == 3
    assert wrap(Two(), "mix", {"scale": scale, "x": x}).slots["mix"].interface.width == 3


def test_host_flops_are_those_of_one_sample():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    expected = 2 * (8 * 16 + 16 * 4)
    assert host_flops(model, torch.randn(32, 8)) == expected
    assert wrap(model, "1", torch.randn(2, 8)).host_flops == expected


def test_encoder_layers_are_measured_in_spite_of_their_fused_path():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    bank = wrap(layer, ["linear1", "norm2"], torch.randn(3, 5, 16))
    assert bank.slots["linear1"].interface.width == 32
    assert torch.backends.mha.get_fastpath_enabled()


def test_copies_and_pickles_are_refused_only_when_they_would_compute_something_else(host, batch, shelf, blueprints):
    inputs, _ = batch
    bank = wrap(host, "act1", inputs, source=shelf)
    with bank.observing():
        copied, pickled = copy.deepcopy(host), pickle.loads(pickle.dumps(host))  # noqa: S301  made one line above
        for other in (copied, pickled):
            assert torch.equal(other(inputs), host(inputs))
    assert bank.statistics()["act1"].count == 64
    bank.order(Command.germinate("act1", shelf.add(blueprints["mlp"](), bank.slots["act1"].interface)))
    bank.boundary(1)
    bank.boundary(2)
    bank.order(Command.advance("act1/0"))
    with pytest.raises(SlotError, match=r"act1/0.*bank\.fork"):
        copy.deepcopy(host)
    with pytest.raises(SlotError, match=r"save_model"):
        pickle.dumps(host)
    with pytest.raises(SlotError, match="affect the model"):
        unwrap(host)
