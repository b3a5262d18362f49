"""``load_model``: a directory written by ``save_model`` to an ordinary module, every byte checked first."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from esper.errors import ModelError
from esper.kernel import Kernel, eager_kernel
from esper.persist.format import HOST_FILE, KERNELS_FILE, LINEAGE_FILE, SCHEMA, KernelEntry, Lineage, SlotEntry
from esper.persist.grown import Branch, Grown, replace_everywhere
from leyline import canonical
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError
from leyline.interface import Interface
from leyline.resources.enums import Blend


def load_model(directory: Path | str, host: nn.Module | None = None) -> nn.Module:
    """The saved model as a plain ``nn.Module`` in evaluation mode, its kernels ordinary submodules.

    In evaluation mode its outputs are bit-identical to those of the model that was saved; it can be trained further,
    copied and exported with ``torch.export``.

    Args:
        directory: what :func:`esper.save_model` wrote.
        host: the network without its grown parts; it is filled and changed in place. Without it the host is built by
            the task named in ``lineage.json``, which imports that task's module: only for directories you trust.

    Raises:
        ModelError: a file is missing, damaged or of an unknown version, or ``host`` is another network.
        TaskError: the task named in the lineage can't be had.
    """
    root = Path(directory)
    lineage = read_lineage(root)
    tensors = {name: _tensors(root, name, lineage) for name in (HOST_FILE, KERNELS_FILE)}
    model = host if host is not None else _build_host(root, lineage)
    _check_host(model, tensors[HOST_FILE], root)
    grown = _grown(model, lineage.slots, tensors[KERNELS_FILE], root)
    _fill(model, tensors[HOST_FILE])
    for module, with_kernels in grown:
        replace_everywhere(model, module, with_kernels)
    return model.eval()


def read_lineage(directory: Path | str) -> Lineage:
    """The checked content of ``lineage.json``.

    Raises:
        ModelError: it is missing, damaged or of an unknown version.
    """
    path = Path(directory) / LINEAGE_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; {directory} is not a saved model") from error
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON; the file is damaged, save the model again") from error
    version = content.get("schema") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise ModelError(f"{path} has schema {version!r}; this Esper reads schema {SCHEMA}, use the one that wrote it")
    try:
        lineage = Lineage.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    rest = {name: value for name, value in content.items() if name != "sha256"}
    if canonical.digest(rest) != lineage.sha256:
        raise ModelError(f"{path} was changed after it was written: its digest does not fit its content")
    return lineage


def _tensors(root: Path, name: str, lineage: Lineage) -> dict[str, Tensor]:
    path, entry = root / name, lineage.files.get(name)
    if entry is None:
        raise ModelError(f"{root / LINEAGE_FILE}: files: {name} is not listed")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; the saved model is not complete") from error
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise ModelError(f"{path} is not the file that was saved ({len(data)} bytes, digest differs); copy it again")
    try:
        loaded: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ModelError(f"{path}: {error}") from error
    return loaded


def _build_host(root: Path, lineage: Lineage) -> nn.Module:
    task = lineage.host.task
    if task is None:
        raise ModelError(
            f"{root} was saved without a task: give the {lineage.host.type} it was grown from, load_model(dir, host=…)"
        )
    from esper.tasks import load_task  # only here: a host that is given needs no task

    return load_task(task.ref, task.params, task.seed).model


def _check_host(model: nn.Module, tensors: Mapping[str, Tensor], root: Path) -> None:
    """Raise ModelError unless ``model`` has the tensors that were saved, and says which it has not."""
    own = model.state_dict()
    loose = {name: buffer for name, buffer in model.named_buffers() if name not in own}
    wrong = [
        f"{name} is {_form(tensors[name])} in the file, {_form(value)} here"
        for name, value in own.items()
        if name in tensors and isinstance(value, Tensor) and not _same_form(value, tensors[name])
    ]
    missing = [name for name in own if name not in tensors]
    # A loose buffer of the file that this host does not have (a cache made by a forward pass) is not needed.
    unknown = [name for name in tensors if name not in own and name not in loose and _belongs_to_state(model, name)]
    if wrong or missing or unknown:
        parts = [*wrong[:3]]
        parts += [f"{name} is not in the file{_near(name, tensors)}" for name in missing[:3]]
        parts += [f"{name} is in the file only{_near(name, own)}" for name in unknown[:3]]
        raise ModelError(f"{root}: {type(model).__name__} is not the host that was saved: {'; '.join(parts)}")


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the host's tensors into ``model``."""
    own = model.state_dict()
    model.load_state_dict({name: tensors[name] for name in own})
    loose = {name: buffer for name, buffer in model.named_buffers() if name not in own}
    with torch.no_grad():
        for name, buffer in loose.items():
            if name in tensors and _same_form(buffer, tensors[name]):
                buffer.copy_(tensors[name])


def _belongs_to_state(model: nn.Module, name: str) -> bool:
    """False for a buffer that its module never puts into its state, such as a cache that is not there yet."""
    path, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        return True
    return leaf not in owner._non_persistent_buffers_set


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _same_form(here: Tensor, there: Tensor) -> bool:
    return here.shape == there.shape and here.dtype == there.dtype


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f" (there is {close[0]})" if close else ""


def _grown(
    model: nn.Module, slots: Iterable[SlotEntry], tensors: Mapping[str, Tensor], root: Path
) -> list[tuple[nn.Module, Grown]]:
    """Each slot's module with what takes its place; nothing is replaced yet, because slots may be nested."""
    by_path: dict[str, list[SlotEntry]] = {}
    for slot in slots:
        by_path.setdefault(slot.module_path, []).append(slot)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    used: set[str] = set()
    made: list[tuple[nn.Module, Grown]] = []
    for path, entries in by_path.items():
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(
                f"{root}: {type(model).__name__} has no module {path}: it is not the host that was saved"
            ) from error
        branches = {
            entry.chunk: [_branch(kernel, tensors, used, root).to(device) for kernel in entry.kernels]
            for entry in entries
        }
        dim = _interface(entries[0].kernels[0], root).feature_dim
        made.append((module, Grown(module, entries[0].chunks, dim, branches)))
    left = sorted(set(tensors) - used)
    if left:
        raise ModelError(f"{root / KERNELS_FILE}: {left[0]} belongs to no kernel of the lineage")
    return made


def _branch(entry: KernelEntry, tensors: Mapping[str, Tensor], used: set[str], root: Path) -> Branch:
    kernel = _kernel(entry, root)
    own = {name.rpartition("/")[2]: value for name, value in tensors.items() if name.rpartition("/")[0] == entry.seed}
    expected = kernel.state_dict()
    if own.keys() != expected.keys() or any(not _same_form(expected[name], own[name]) for name in own):
        raise ModelError(
            f"{root / KERNELS_FILE}: the tensors of seed {entry.seed} do not fit its blueprint {entry.blueprint}"
        )
    kernel.load_state_dict(own)
    used.update(f"{entry.seed}/{name}" for name in own)
    return Branch(kernel, Blend(entry.blend), entry.alpha)


def _kernel(entry: KernelEntry, root: Path) -> Kernel:
    try:
        ir = BlueprintIR.from_json(entry.ir)
        if ir.digest() != entry.digest:
            raise ModelError(f"{root / LINEAGE_FILE}: the recipe of seed {entry.seed} does not fit its digest")
        return eager_kernel(ir, _interface(entry, root))
    except LeylineError as error:
        raise ModelError(f"{root / LINEAGE_FILE}: the recipe of seed {entry.seed}: {error}") from error


def _interface(entry: KernelEntry, root: Path) -> Interface:
    try:
        return Interface.from_dict(_tuples(entry.interface))
    except LeylineError as error:
        raise ModelError(f"{root / LINEAGE_FILE}: the interface of seed {entry.seed}: {error}") from error


def _tuples(interface: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in interface.items()}
