"""``save_model``: a wrapped (or plain) model to a directory of tensors and JSON."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from esper.errors import ModelError, SlotError
from esper.kasmina import bank_of
from esper.output.files import disk_errors
from esper.output.plain import plain
from esper.persist.directory import replacing
from esper.persist.format import HOST_FILE, KERNELS_FILE, LINEAGE_FILE, SCHEMA, Lineage
from leyline import canonical

if TYPE_CHECKING:
    from esper.kasmina import DeployedKernel, SeedBank


def save_model(model: nn.Module, directory: Path | str, lineage: Mapping[str, Any] | None = None) -> Path:
    """Save ``model`` with what it has grown into ``directory``, replacing a model that is there in one step.

    Args:
        model: wrapped by :func:`esper.wrap`, or any module that never grew.
        directory: made with its parents; if anything fails, what was there stays as it was.
        lineage: ``task`` (``{"ref", "params", "seed"}``, so that :func:`load_model` can build the host), ``verdicts``
            (by seed id, the numbers of each look; default: those the seeds carry); the rest is kept under ``run``.

    Raises:
        ModelError: the model has state that is no tensor, or ``lineage`` is not JSON of that form.
        OutputDirectoryError: ``directory`` holds something that is not a saved model, or can't be written.
        StorageFull: no space is left.
    """
    given = dict(lineage or {})
    task, verdicts = given.pop("task", None), dict(given.pop("verdicts", None) or {})
    slots, kernels = _grown(model, verdicts)
    files = {HOST_FILE: _serialise(host_tensors(model)), KERNELS_FILE: _serialise(kernels)}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "host": {
            "type": f"{type(model).__module__}.{type(model).__qualname__}",
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "task": plain(task),
        },
        "slots": slots,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
        "run": _json(given),
        "versions": _versions(),
    }
    content["sha256"] = canonical.digest(content)
    try:
        Lineage.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"lineage: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    with replacing(Path(directory), LINEAGE_FILE) as fresh, disk_errors(Path(directory), "writing"):
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        (fresh / LINEAGE_FILE).write_bytes(canonical.dumps(content) + b"\n")
    return Path(directory)


def host_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The host's state, and buffers outside of it (``persistent=False``), each under its own name.

    Raises:
        ModelError: a module keeps state that is no tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{name} is {type(value).__name__}, not a tensor; move it out of get_extra_state to save it"
            )
        tensors[name] = value
    for name, buffer in model.named_buffers():
        tensors.setdefault(name, buffer)
    return tensors


def _grown(model: nn.Module, verdicts: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The slots that carry kernels as lineage entries, and the kernels' tensors."""
    try:
        bank = bank_of(model)
    except SlotError:
        return [], {}
    slots: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for slot in bank.deploy_plan():
        ordered = sorted(slot.kernels, key=lambda kernel: bank.seeds[kernel.seed].ordinal)
        for deployed in ordered:
            for name, value in deployed.kernel.state_dict().items():
                tensors[f"{deployed.seed}/{name}"] = value
        slots.append(
            {
                "id": slot.id,
                "module_path": slot.module_path,
                "aliases": list(slot.aliases),
                "chunk": slot.chunk,
                "chunks": slot.chunks,
                "kernels": [_entry(bank, deployed, verdicts) for deployed in ordered],
            }
        )
    return slots, tensors


def _entry(bank: SeedBank, deployed: DeployedKernel, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    seed, kernel = bank.seeds[deployed.seed], deployed.kernel
    looks = verdicts.get(seed.id) or ([seed.verdict.to_dict()] if seed.verdict is not None else [])
    return {
        "seed": seed.id,
        "artifact_id": deployed.artifact_id,
        "blueprint": deployed.blueprint,
        "ir": kernel.ir.to_dict(),
        "digest": kernel.ir.digest(),
        "interface": kernel.interface.to_dict(),
        "blend": str(deployed.blend.value),
        "alpha": None if seed.full else deployed.alpha,
        "stage": seed.stage.name,
        "verdicts": _json(list(looks)),
    }


def _serialise(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors refuses tensors that share memory (tied weights): each is written out on its own.
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(whole)
    return data


def _json(value: Any) -> Any:
    try:
        return plain(value)
    except TypeError as error:
        raise ModelError(f"lineage: {error}") from error


def _versions() -> dict[str, str]:
    try:
        esper = version("esper-train")
    except PackageNotFoundError:
        esper = "source"
    return {"esper": esper, "torch": str(torch.__version__), "python": platform.python_version()}
