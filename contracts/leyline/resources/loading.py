"""Documents to resources, with every problem found at once and named by its path as YAML spells it."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from leyline.errors import FieldError, LeylineError, describe
from leyline.resources.base import API_VERSION, NAME_PATTERN, RuleBreach, fields_of, inner_model
from leyline.resources.blueprint import Blueprint
from leyline.resources.documents import check_plain, closest, parse
from leyline.resources.kernel_artifact import KernelArtifact
from leyline.resources.training_run import TrainingRun

Resource = TrainingRun | Blueprint | KernelArtifact
KINDS: dict[str, type[Resource]] = {
    "TrainingRun": TrainingRun,
    "Blueprint": Blueprint,
    "KernelArtifact": KernelArtifact,
}
_PATTERNS = {NAME_PATTERN: "letters, digits, dots, dashes and underscores"}
R = TypeVar("R", TrainingRun, Blueprint, KernelArtifact)


class ManifestErrors(LeylineError):
    """Everything that is wrong with one document; ``errors`` holds a ``FieldError`` for each field."""

    def __init__(self, errors: Sequence[FieldError], source: str = "manifest") -> None:
        self.errors = list(errors)
        self.source = source
        super().__init__(self.errors, source)  # both in args: survives pickling between processes

    def __str__(self) -> str:
        count = f"{len(self.errors)} problem{'s' if len(self.errors) != 1 else ''}"
        return "\n".join([f"{self.source}: {count}", *(f"  {error}" for error in self.errors)])


def load(document: str | bytes | dict[str, Any], source: str = "manifest") -> TrainingRun:
    """A training run from YAML or JSON text, or from plain values.

    Raises ``ManifestErrors`` with one entry per wrong field.
    """
    return _load(document, TrainingRun, source)


def load_blueprint(document: str | bytes | dict[str, Any], source: str = "manifest") -> Blueprint:
    """A blueprint resource; raises ``ManifestErrors``."""
    return _load(document, Blueprint, source)


def load_kernel_artifact(document: str | bytes | dict[str, Any], source: str = "manifest") -> KernelArtifact:
    """A kernel artifact resource; raises ``ManifestErrors``."""
    return _load(document, KernelArtifact, source)


def _load(document: str | bytes | dict[str, Any], model: type[R], source: str) -> R:
    try:
        if isinstance(document, str | bytes):
            value = parse(document)
        else:
            check_plain(document)
            value = document
        if not isinstance(value, dict):
            raise FieldError("document", f"a {_kind_of(value)}", "an object with apiVersion, kind, metadata and spec")
        _check_head(value, model.__name__)
    except FieldError as error:
        raise ManifestErrors([error], source) from error
    try:
        resource = model.model_validate(value)
    except ValidationError as error:
        raise ManifestErrors(field_errors(error, model), source) from error
    problems: list[FieldError] = [] if isinstance(resource, TrainingRun) else resource.problems()
    if problems:
        raise ManifestErrors(problems, source)
    return resource


def _check_head(value: dict[str, Any], kind: str) -> None:
    """Say first of all when the document is something else: field errors of the wrong kind only confuse."""
    if value.get("kind") != kind:
        found = f"{value['kind']!r}" if "kind" in value else "missing"
        raise FieldError("kind", found, kind)
    if value.get("apiVersion") != API_VERSION:
        found = f"{value['apiVersion']!r}" if "apiVersion" in value else "missing"
        raise FieldError("apiVersion", found, API_VERSION)


def field_errors(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """Pydantic's findings as ``FieldError``s, in the order of the model's fields."""
    found: list[FieldError] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        location = [part for part in detail["loc"] if part not in ("str", "int")]
        if isinstance(cause, RuleBreach):
            found.extend(
                FieldError(yaml_path([*location, *rule.field.split(".")]), rule.problem, rule.allowed)
                for rule in cause.rules
            )
        else:
            found.append(_one(detail, location, model))
    unique = {str(item): item for item in found}
    return list(unique.values())


def yaml_path(location: Sequence[str | int]) -> str:
    """``spec.slots[0].path`` from its parts."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = to_camel(part) if "_" in part else part
            text += f".{name}" if text else name
    return text or "document"


def _one(detail: Any, location: list[str | int], model: type[BaseModel]) -> FieldError:
    path, kind, value = yaml_path(location), detail["type"], detail.get("input")
    context = detail.get("ctx", {})
    shown = _show(value)
    if kind == "missing":
        return FieldError(path, "missing", _wanted(location, model) or "a value")
    if kind == "extra_forbidden":
        return FieldError(path, "unknown field", _known_field(location, model))
    if kind in ("enum", "literal_error"):
        choices = [item.strip("' ") for item in str(context["expected"]).replace(" or ", ", ").split(", ")]
        if isinstance(value, bool):
            return FieldError(
                path, f"YAML reads this word as {str(value).lower()}", f'one of {", ".join(choices)}, quoted ("Off")'
            )
        near = closest(str(value), choices)
        allowed = f"one of {', '.join(choices)}"
        return FieldError(path, shown, f"{allowed}; did you mean {near}?" if near else allowed)
    if kind == "value_error":
        return FieldError(path, shown, str(context["error"]))
    allowed_by: dict[str, str] = {
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "string_too_long": "at most {max_length} characters",
        "string_too_short": "at least {min_length} character(s)",
        "too_long": "at most {max_length} item(s)",
        "too_short": "at least {min_length} item(s)",
        "string_type": "a string",
        "int_type": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "an object",
        "model_type": "an object",
        "model_attributes_type": "an object",
        "finite_number": "a finite number",
    }
    if kind == "string_pattern_mismatch":
        return FieldError(path, shown, _form(location, model) or _PATTERNS.get(context["pattern"], detail["msg"]))
    template = allowed_by.get(kind)
    return FieldError(path, shown, template.format(**context) if template else detail["msg"])


def _known_field(location: Sequence[str | int], model: type[BaseModel]) -> str:
    """What the writer of an unknown field may have meant: a misspelling, another object's field, or see the list."""
    word, choices = str(location[-1]), _names(location[:-1], model)
    near = closest(word, choices)
    if near:
        return f"did you mean {near}?"
    elsewhere = [path for path in _paths(model) if path.rsplit(".", 1)[-1] == to_camel(word)]
    if elsewhere:
        return f"it belongs to {elsewhere[0].rsplit('.', 1)[0]}"
    return f"one of {', '.join(sorted(choices))}"


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of ``model`` by its YAML path, without the status."""
    found: list[str] = []
    for name, info in model.model_fields.items():
        if not prefix and name == "status":
            continue
        path = f"{prefix}.{info.alias or name}" if prefix else info.alias or name
        found.append(path)
        inner = inner_model(info.annotation)
        if inner is not None:
            found.extend(_paths(inner, path))
    return found


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else _json_word(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _json_word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return f"a {_kind_of(value)} of {len(value)}"
    return describe(value) if isinstance(value, int) and value.bit_length() > 64 else str(value)


def _kind_of(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _model_at(location: Sequence[str | int], model: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the object at ``location``."""
    here = model
    key_next = False
    for part in location:
        if isinstance(part, int):
            continue
        if key_next:  # a name of the user's own in a map of objects
            key_next = False
            continue
        match = [info for name, info in fields_of(here).items() if part in (name, info.alias)]
        if not match:
            return None
        key_next = typing.get_origin(match[0].annotation) is dict
        inner = inner_model(match[0].annotation)
        if inner is None:
            return None
        here = inner
    return here


def _field_at(location: Sequence[str | int], model: type[BaseModel]) -> FieldInfo | None:
    here = _model_at(location[:-1], model)
    fields = fields_of(here).items() if here and location else ()
    return next((info for name, info in fields if location[-1] in (name, info.alias)), None)


def _form(location: Sequence[str | int], model: type[BaseModel]) -> str | None:
    """The field's pattern in words."""
    info = _field_at(location, model)
    extra: Any = info.json_schema_extra if info else None
    return extra["x-doc"]["form"] if extra else None


def _names(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    here = _model_at(location, model)
    return [info.alias or name for name, info in here.model_fields.items()] if here else []


def _wanted(location: Sequence[str | int], model: type[BaseModel]) -> str | None:
    info = _field_at(location, model)
    if info is None:
        return None
    annotation = info.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"one of {', '.join(str(item.value) for item in annotation)}"
    return info.description
