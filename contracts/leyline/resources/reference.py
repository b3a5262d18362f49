"""``docs/manifest.md``: every field a TrainingRun may have, from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from leyline.resources.base import fields_of, inner_model
from leyline.resources.crd import Schema, default_of, schema
from leyline.resources.documents import MAX_BYTES
from leyline.resources.rules import RULES
from leyline.resources.training_run import MUTABLE_SPEC_FIELDS, TrainingRun, TrainingRunSpec

_HEAD = f"""# The manifest, field by field

<!-- Generated from leyline.resources by `make crds`; do not edit. -->

A `TrainingRun` is one YAML document. `esper run` on one machine and the API server on a cluster refuse the same
mistakes, because both read the same models. A document has at most {MAX_BYTES // 1024} KiB; unknown fields, duplicate
keys and a second document in the file are refused. Quote `"Off"`: bare, YAML reads it as `false`.

Fields marked * have no default. After a run was created on a cluster only {{mutable}} may change.
"""


def manifest_reference() -> str:
    """The page as Markdown."""
    spec = fields_of(TrainingRunSpec)
    mutable = ", ".join(f"`spec.{spec[name].alias}`" for name in spec if name in MUTABLE_SPEC_FIELDS)
    parts = [_HEAD.format(mutable=mutable)]
    tree = schema(TrainingRun)
    parts.extend(_section("spec", tree["properties"]["spec"], TrainingRunSpec))
    parts.append("## Rules between fields\n")
    parts.append("| where | refused | instead |\n|---|---|---|")
    parts.extend(
        f"| `{rule.model.removesuffix('Spec')}`: `{_camel(rule.field)}` | {rule.problem} | {rule.allowed} |"
        for rule in RULES
        if rule.model != "InterfaceSpec"
    )
    return "\n".join(parts) + "\n"


def _camel(path: str) -> str:
    return ".".join(to_camel(part) for part in path.split("."))


def _section(path: str, node: Schema, model: type[BaseModel]) -> Iterator[str]:
    """A heading and a table for one object, then its inner objects."""
    yield f"## `{path}`\n"
    yield " ".join((model.__doc__ or "").split()) + "\n"
    yield "| field | type | allowed | default | meaning |\n|---|---|---|---|---|"
    inner: list[tuple[str, Schema, type[BaseModel]]] = []
    for name, info in fields_of(model).items():
        alias = info.alias or name
        prop = node["properties"][alias]
        child = inner_model(info.annotation)
        if child is not None:
            shape = prop if prop.get("type") == "object" else prop["items"]
            inner.append((f"{path}.{alias}" + ("[]" if prop["type"] == "array" else ""), shape, child))
        yield _row(model, name, alias, prop, required=info.is_required())
    yield ""
    for inner_path, shape, child in inner:
        yield from _section(inner_path, shape, child)


def _row(model: type[BaseModel], name: str, alias: str, prop: Schema, *, required: bool) -> str:
    info = fields_of(model)[name]
    extra: Any = info.json_schema_extra
    doc = extra["x-doc"]
    meaning = doc["text"] + (f" [{doc['unit']}]" if doc["unit"] else "")
    if doc["why"] and doc["why"] != "see its fields":
        meaning += f" *Why this default: {doc['why']}.*"
    default = default_of(model, name)
    shown = "*" if required else "absent" if default is None else f"`{json.dumps(default)}`"
    cells = (f"`{alias}`", _type(prop), _allowed(prop, doc["form"]), shown, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(prop: Schema) -> str:
    if prop.get("x-kubernetes-int-or-string"):
        return "quantity"
    if prop["type"] == "array":
        return f"list of {_type(prop['items'])}"
    if prop["type"] == "object" and "additionalProperties" in prop:
        return f"map to {_type(prop['additionalProperties'])}"
    return str(prop["type"])


def _allowed(prop: Schema, form: str | None) -> str:
    if prop["type"] == "array" and "enum" in prop["items"]:
        prop = prop["items"]
    if "enum" in prop:
        return ", ".join(f"`{item}`" for item in prop["enum"])
    limits = [form] if form else []
    if "minimum" in prop:
        limits.append(f"{'>' if prop.get('exclusiveMinimum') else '≥'} {prop['minimum']}")
    if "maximum" in prop:
        limits.append(f"{'<' if prop.get('exclusiveMaximum') else '≤'} {prop['maximum']}")
    for low, high, what in (("minItems", "maxItems", "items"), ("minLength", "maxLength", "characters")):
        if low in prop or high in prop:
            limits.append(f"{prop.get(low, 0)} to {prop[high]} {what}" if high in prop else f"≥ {prop[low]} {what}")
    return ", ".join(limits)
