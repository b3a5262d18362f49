"""What is damaged, foreign or half written is refused by name, and never costs what was there before."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.errors import BadInput, ModelError, OutputDirectoryError, StorageFull
from esper.kasmina import Blend, SeedBank
from esper.persist import directory as directories
from esper.persist import load_model, save_model
from leyline import canonical
from leyline.lifecycle import Stage

Grow = Callable[..., SeedBank]


class Net(nn.Module):
    def __init__(self, width: int = 8, name: str = "body") -> None:
        super().__init__()
        self.add_module(name, nn.ModuleList([nn.Linear(width, width)]))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)[0](x)


@pytest.fixture
def saved(grow: Grow, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Net()
    grow(model, torch.randn(5, 8), [("body.0", "mlp", Blend.RESIDUAL, Stage.FOSSILIZED)])
    return save_model(model, tmp_path / "model")


def rewrite(saved: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the lineage and make its own digest fit again, as an attacker would."""
    path = saved / "lineage.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256")
    content["sha256"] = canonical.digest(content)
    path.write_bytes(canonical.dumps(content))


@pytest.mark.parametrize("name", ["host.safetensors", "kernels.safetensors", "lineage.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(saved, host=Net())


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_or_cut_byte_is_noticed(saved: Path, data: st.DataObject) -> None:
    path = saved / data.draw(st.sampled_from(["host.safetensors", "kernels.safetensors", "lineage.json"]))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 2))  # the newline at the lineage's end carries nothing
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path.write_bytes(damaged)
    try:
        with pytest.raises(BadInput):
            load_model(saved, host=Net())
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (lambda: Net(width=9), r"body\.0\.weight is \(8, 8\) torch\.float32 in the file, \(9, 9\)"),
        (lambda: Net(name="trunk"), r"trunk\.0\.weight is not in the file"),
        (lambda: Net().double(), "float64 here"),
        (lambda: nn.Sequential(nn.Linear(8, 8)), r"0\.bias is not in the file \(there is body\.0\.bias\)"),
    ],
)
def test_another_host_is_refused_and_said_how_it_differs(saved: Path, host: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(saved, host=host())


def test_a_refused_host_is_left_as_it_was(saved: Path) -> None:
    rewrite(saved, lambda content: content["slots"][0]["kernels"][0].update(seed="body.0/7"))
    host = Net()
    before = {name: value.clone() for name, value in host.state_dict().items()}
    with pytest.raises(ModelError, match=r"body\.0/7"):
        load_model(saved, host=host)
    assert host.state_dict().keys() == before.keys()
    assert all(torch.equal(host.state_dict()[name], value) for name, value in before.items())


def kernel(content: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = content["slots"][0]["kernels"][0]
    return entry


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(schema=2), "schema 2"),
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: kernel(c).update(digest="0" * 64), "does not fit its digest"),
        (lambda c: kernel(c)["ir"].update(output="nowhere"), "recipe of seed"),
        (lambda c: kernel(c)["ir"]["nodes"]["1"].update(op="exec"), "recipe of seed"),
        (lambda c: kernel(c)["interface"].update(width=16), "do not fit its blueprint"),
        (lambda c: kernel(c)["interface"].update(width=-1), "interface of seed"),
        (lambda c: kernel(c).update(blend="Eval"), "blend"),
        (lambda c: c["slots"][0].update(module_path="body.9"), "no module body.9"),
        (lambda c: c["slots"].clear(), "belongs to no kernel"),
        (lambda c: c["files"].pop("kernels.safetensors"), "not listed"),
    ],
)
def test_a_forged_lineage_is_refused(saved: Path, change: Callable[[dict[str, Any]], None], said: str) -> None:
    rewrite(saved, change)
    with pytest.raises(ModelError, match=said):
        load_model(saved, host=Net())


def test_a_hand_edited_lineage_is_refused(saved: Path) -> None:
    path = saved / "lineage.json"
    path.write_text(path.read_text().replace('"alpha":null', '"alpha":0.5'))
    with pytest.raises(ModelError, match="changed after it was written"):
        load_model(saved, host=Net())


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a saved model"):
        load_model(tmp_path)


def test_a_model_saved_without_a_task_asks_for_its_host(saved: Path) -> None:
    with pytest.raises(ModelError, match="host="):
        load_model(saved)


def test_saving_again_replaces_and_leaves_nothing_beside(saved: Path) -> None:
    second = Net()
    save_model(second, saved)
    x = torch.randn(3, 8)
    assert torch.equal(load_model(saved, host=Net())(x), second(x))
    assert sorted(path.name for path in saved.parent.iterdir()) == ["artifacts", "model"]


@pytest.mark.parametrize("fail_at", ["write_bytes", "fsync", "exchange"])
def test_a_failing_save_keeps_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch, fail_at: str) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if fail_at == "write_bytes":
        monkeypatch.setattr(Path, "write_bytes", refuse)
    elif fail_at == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(directories, "exchange", refuse)
    with pytest.raises(StorageFull):
        save_model(Net(), saved)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["artifacts", "model"]


def test_without_an_atomic_swap_two_renames_do_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_renameat2", lambda first, second: errno.ENOSYS)
    second = Net()
    save_model(second, saved)
    x = torch.randn(3, 8)
    assert torch.equal(load_model(saved, host=Net())(x), second(x))
    assert sorted(path.name for path in saved.parent.iterdir()) == ["artifacts", "model"]


def test_two_renames_are_undone_when_the_second_fails(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_renameat2", lambda first, second: errno.ENOSYS)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    rename = os.rename

    def second_fails(source: Any, target: Any) -> None:
        if str(target) == str(saved) and ".old" not in str(source):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OutputDirectoryError, match="Permission denied"):
        save_model(Net(), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize(
    "make", [lambda path: (path.mkdir(), (path / "thesis.tex").write_text("x")), lambda path: path.write_text("x")]
)
def test_a_directory_or_file_of_somebody_else_is_not_replaced(tmp_path: Path, make: Callable[[Path], object]) -> None:
    target = tmp_path / "mine"
    make(target)
    with pytest.raises(OutputDirectoryError, match="choose another path"):
        save_model(Net(), target)
    assert target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_state_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

    with pytest.raises(ModelError, match="_extra_state is dict"):
        save_model(Odd(2, 2), tmp_path / "model")


def test_a_lineage_that_is_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lineage"):
        save_model(Net(), tmp_path / "model", {"name": object()})
    assert list(tmp_path.iterdir()) == []
