"""Hundreds of broken manifests, made from whole ones by breaking each field in every way its schema forbids."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyline.resources import load, load_blueprint, load_kernel_artifact
from leyline.resources.blueprint import Blueprint
from leyline.resources.crd import schema
from leyline.resources.documents import parse
from leyline.resources.kernel_artifact import KernelArtifact
from leyline.resources.training_run import TrainingRun

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "corpus" / "manifests"
WHOLE: tuple[tuple[type[Any], Callable[..., Any], Path], ...] = (
    (TrainingRun, load, CORPUS / "good" / "everything.yaml"),
    (Blueprint, load_blueprint, ROOT / "crds" / "samples" / "blueprint.yaml"),
    (KernelArtifact, load_kernel_artifact, ROOT / "crds" / "samples" / "kernelartifact.yaml"),
)
WRONG: dict[str, tuple[Any, ...]] = {
    "string": (7, True, ["text"], {"text": "x"}),
    "integer": ("seven", 1.5, [1], {"value": 1}),
    "number": ("much", [0.5], {"value": 0.5}),
    "boolean": ("maybe", 1, [True]),
    "array": ("item", 3),
    "object": ("text", 5, ["item"]),
}
"""Values of another type than the one that is asked for."""
NOWHERE = "surelyNotAField"


@dataclass(frozen=True)
class Broken:
    """A manifest with one thing wrong, the field it is wrong in, and who reads such manifests."""

    name: str
    field: str
    document: dict[str, Any]
    read: Callable[..., Any]


def broken_manifests() -> list[Broken]:
    """All of them, each once."""
    found = []
    for model, read, path in WHOLE:
        document = parse(path.read_text(encoding="utf-8"))
        document.pop("status", None)
        shape = schema(model)["properties"]["spec"]
        for keys, how, value in _breaks(document["spec"], shape, ("spec",)):
            made = copy.deepcopy(document)
            _put(made, keys, value)
            field = _path(keys)
            found.append(Broken(f"{document['kind']}:{field}: {how}", field, made, read))
    return found


_ABSENT = object()


def _breaks(value: Any, shape: dict[str, Any], keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    if shape.get("x-kubernetes-preserve-unknown-fields") or "type" not in shape:
        return
    for wrong in WRONG[shape["type"]]:
        yield keys, f"{wrong!r} for {shape['type']}", wrong
    if isinstance(value, dict):
        if "properties" in shape:
            yield (*keys, NOWHERE), "unknown", 1
        for name in shape.get("required", ()):
            yield (*keys, name), "missing", _ABSENT
        for name, inner in value.items():
            known = shape.get("properties", {}).get(name) or shape.get("additionalProperties") or {}
            yield from _breaks(inner, known, (*keys, name))
    elif isinstance(value, list):
        if shape.get("minItems"):
            yield keys, "too few", value[: shape["minItems"] - 1]
        if "maxItems" in shape and value:
            yield keys, "too many", value[:1] * (shape["maxItems"] + 1)
        for index, item in enumerate(value[:1]):
            yield from _breaks(item, shape["items"], (*keys, index))
    elif isinstance(value, str):
        yield from ((keys, how, wrong) for how, wrong in _strings(value, shape))
    else:
        yield from ((keys, how, wrong) for how, wrong in _numbers(shape))


def _strings(value: str, shape: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "enum" in shape:
        yield "another word", "Sideways"
        yield "another spelling", value.swapcase()
    if shape.get("minLength"):
        yield "empty", ""
    if "maxLength" in shape:
        yield "too long", "x" * (shape["maxLength"] + 1)
    if "pattern" in shape:
        yield "not of the form", "§ §"


def _numbers(shape: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    step = 1 if shape["type"] == "integer" else 0.5
    for end, sign in (("minimum", -1), ("maximum", 1)):
        # beyond 2**53 the neighbour of a bound is the bound itself
        if end in shape and abs(shape[end]) < 2**53:
            bound = shape[end]
            yield f"beyond {end}", bound if shape.get(f"exclusive{end.capitalize()}") else bound + sign * step
    if shape["type"] == "number":
        yield "far too large", math.copysign(1e300, 1)


def _put(document: Any, keys: tuple[Any, ...], value: Any) -> None:
    for key in keys[:-1]:
        document = document[key]
    if value is _ABSENT:
        document.pop(keys[-1], None)
    else:
        document[keys[-1]] = value


def _path(keys: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")
