"""The custom resource definitions, derived from the models: structural OpenAPI schemas with defaults and CEL rules.

Kubernetes wants no ``$ref``, no ``anyOf`` with null, boolean ``exclusiveMinimum`` (OpenAPI 3.0), and limits on the
length of whatever a CEL rule may walk over. Nothing here reads or writes files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticUndefined

from leyline.resources.base import API_VERSION, StatusModel, fields_of
from leyline.resources.blueprint import Blueprint, BlueprintSpec
from leyline.resources.kernel_artifact import KernelArtifact, KernelArtifactSpec
from leyline.resources.meta import Metadata
from leyline.resources.rules import rules_of
from leyline.resources.training_run import MUTABLE_SPEC_FIELDS, TrainingRun, TrainingRunSpec

Schema = dict[str, Any]
GROUP, _, VERSION = API_VERSION.partition("/")


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones need ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True)
class Definition:
    """What a resource needs beside its schema."""

    model: type[BaseModel]
    plural: str
    short: str
    columns: tuple[Column, ...]


AGE = Column("Age", ".metadata.creationTimestamp", "date")

DEFINITIONS: tuple[Definition, ...] = (
    Definition(
        TrainingRun,
        "trainingruns",
        "trun",
        (
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.progress"),
            Column("Epoch", ".status.epoch", "integer"),
            Column("Seeds", ".status.seeds.text"),
            Column("Best", ".status.best.text"),
            Column("GPUs", ".status.gpus", "integer"),
            Column("ETA", ".status.eta"),
            AGE,
            Column("Restarts", ".status.restarts", "integer", wide=True),
            Column("Reason", ".status.reason", wide=True),
            Column("Checkpoint", ".status.checkpoint.epoch", "integer", wide=True),
        ),
    ),
    Definition(
        Blueprint,
        "blueprints",
        "bp",
        (
            Column("Tier", ".status.tier"),
            Column("Kernels", ".status.kernels", "integer"),
            Column("Risk", ".status.risk", "number"),
            AGE,
        ),
    ),
    Definition(
        KernelArtifact,
        "kernelartifacts",
        "ka",
        (
            Column("Phase", ".status.phase"),
            Column("Strategy", ".spec.strategy"),
            Column("Hardware", ".status.hardware"),
            Column("Ratio", ".status.ratioText"),
            Column("Tags", ".status.tagsText"),
            AGE,
        ),
    ),
)

# Fields of a spec that must not change once the object exists; the rest may.
FROZEN_FIELDS: dict[type[BaseModel], frozenset[str]] = {
    TrainingRunSpec: frozenset(TrainingRunSpec.model_fields) - MUTABLE_SPEC_FIELDS,
    BlueprintSpec: frozenset({"graph"}),
    KernelArtifactSpec: frozenset(KernelArtifactSpec.model_fields),
}


def definition(of: Definition) -> Schema:
    """The CustomResourceDefinition object of one resource."""
    kind = of.model.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{of.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": of.plural,
                "singular": kind.lower(),
                "shortNames": [of.short],
                "categories": ["esper"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in of.columns],
                    "schema": {"openAPIV3Schema": schema(of.model)},
                }
            ],
        },
    }


def _column(column: Column) -> Schema:
    return {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        **({"priority": 1} if column.wide else {}),
    }


@cache
def schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a resource model; callers share it and must not change it."""
    if model is Metadata:
        # The API server owns the rest of metadata and lets a CRD restrict the name only.
        return {"type": "object", "properties": {"name": _field(Metadata, "name")}}
    properties = {info.alias or name: _field(model, name) for name, info in fields_of(model).items()}
    if "apiVersion" in properties:
        # The API server checks these two itself.
        properties |= {name: {"type": "string"} for name in ("apiVersion", "kind")}
    required = [info.alias or name for name, info in fields_of(model).items() if info.is_required()]
    rules = [*_rules(model), *_immutability(model)]
    return {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "properties": properties,
        **({"required": required} if required else {}),
        **({"x-kubernetes-validations": rules} if rules else {}),
    }


def describe(model: type[BaseModel], name: str) -> str:
    """The field's description with its unit and the reason of its default, in one paragraph."""
    info = fields_of(model)[name]
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    doc: Any = extra.get("x-doc", {})
    text = str(doc.get("text") or info.description or "")
    if doc.get("unit"):
        text += f" Unit: {doc['unit']}."
    default = default_of(model, name)
    if doc.get("why") and not issubclass(model, StatusModel):
        shown = "absent" if default is None else _brief(default)
        text += f" Default {shown}: {doc['why']}."
    return text


def _brief(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return "[" + ", ".join(_brief(item) for item in default) + "]"
    return "{}" if default == {} else str(default)


def default_of(model: type[BaseModel], name: str) -> Any:
    """The default as JSON; ``{}`` for objects, whose own fields have theirs; None for absent or required."""
    info = fields_of(model)[name]
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return None
    if isinstance(value, BaseModel):
        return {}
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        # Written out, not {}: the API server checks CEL rules against a default before it fills in inner defaults.
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@cache
def _json_schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _field(model: type[BaseModel], name: str) -> Schema:
    """One property: type and limits from pydantic, then what Kubernetes adds."""
    whole = _json_schema(model)
    info = fields_of(model)[name]
    definitions = whole.get("$defs", {})
    found = whole["properties"][info.alias or name]
    shape = _inline(found, definitions, model)
    if info.annotation is Metadata:
        return shape
    shape["description"] = describe(model, name)
    default = info.get_default(call_default_factory=True)
    if default not in (None, PydanticUndefined) and not issubclass(model, StatusModel):
        shape["default"] = _plain(default)
    return shape


def _inline(shape: Schema, definitions: dict[str, Schema], model: type[BaseModel]) -> Schema:
    if "$ref" in shape:
        target = str(shape["$ref"]).rsplit("/", 1)[-1]
        nested = _models_in(model).get(target)
        inner = schema(nested) if nested else _inline(definitions[target], definitions, model)
        extra = {key: value for key, value in shape.items() if key.startswith("x-kubernetes")}
        return {**inner, **extra}
    if "anyOf" in shape:
        choices = [choice for choice in shape["anyOf"] if choice.get("type") != "null"]
        if len(choices) != 1:
            raise TypeError(f"{model.__name__}: a union of several types has no structural schema")
        limits = {key: value for key, value in shape.items() if key not in ("anyOf", "default")}
        return {**_inline({**choices[0], **limits}, definitions, model), "nullable": True}
    out: Schema = {}
    for given, value in shape.items():
        key = _PYDANTIC.get(given, given)
        if key == "const":
            out["enum"] = [value]
        elif key == "items":
            out["items"] = _inline(value, definitions, model)
        elif key == "additionalProperties":
            if isinstance(value, dict):
                out[key] = _inline(value, definitions, model)
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            out[key.replace("exclusiveM", "m")] = value
            out[key] = True
        elif key in _KEPT or key.startswith("x-kubernetes"):
            out[key] = value
    if out.get("type") == "integer":
        out["format"] = "int64"
    return out


# Limits of types with a validator of their own stay in pydantic's spelling.
_PYDANTIC = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_LENGTHS = {f"{end}{of}" for end in ("min", "max") for of in ("Length", "Items", "Properties")}
_KEPT = {"type", "enum", "pattern", "minimum", "maximum"} | _LENGTHS


def _models_in(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    waiting: list[Any] = [info.annotation for info in fields_of(model).values()]
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            found[item.model_config.get("title") or item.__name__] = item
            found[item.__name__] = item
        waiting.extend(getattr(item, "__args__", ()))
    return found


def _rules(model: type[BaseModel]) -> list[Schema]:
    return [
        {
            "rule": rule.condition.cel(),
            "message": rule.message,
            "fieldPath": "".join(f".{to_camel(part)}" for part in rule.field.split(".")),
        }
        for rule in rules_of(model.__name__)
    ]


def _immutability(model: type[BaseModel]) -> list[Schema]:
    rules = []
    for name, info in fields_of(model).items():
        if name not in FROZEN_FIELDS.get(model, frozenset()):
            continue
        yaml = info.alias or name
        new, old = f"self.{yaml}", f"oldSelf.{yaml}"
        always_there = info.is_required() or default_of(model, name) is not None
        same = f"{new} == {old}"
        rules.append(
            {
                "rule": same if always_there else f"has({new}) == has({old}) && (!has({new}) || {same})",
                "message": f"{yaml} can't change once the object exists; create another one",
                "fieldPath": f".{yaml}",
            }
        )
    return rules
