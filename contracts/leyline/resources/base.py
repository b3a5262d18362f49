"""What every part of a resource shares: strict models, field helper, and the rules' hook."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from leyline.resources.rules import Rule, breaches

API_VERSION = "esper.dev/v1alpha1"
# The largest whole number that JSON, YAML and JavaScript readers all carry exactly.
MAX_INT = 2**53 - 1


class RuleBreach(ValueError):
    """One or more rules between the fields of one object do not hold."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = tuple(rules)
        super().__init__("; ".join(rule.message for rule in rules))


class Model(BaseModel):
    """A strict, immutable part of a resource: camelCase in YAML, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=False,
    )

    @model_validator(mode="after")
    def _check_rules(self) -> Model:
        broken = breaches(self)
        if broken:
            raise RuleBreach(broken)
        return self


class StatusModel(Model):
    """A part of a status: the same strictness, but changeable by whoever reports."""

    model_config = ConfigDict(frozen=False)


def field(
    description: str,
    default: Any = ...,
    *,
    unit: str | None = None,
    why: str | None = None,
    form: str | None = None,
    factory: Any = None,
    **constraints: Any,
) -> Any:
    """A documented field: ``why`` the default, ``unit`` what a number counts, ``form`` a pattern in words.

    ``constraints`` are pydantic's (``ge``, ``lt``, ``max_length``, ``pattern`` …); ``schema`` adds keys to the schema.
    """
    extra: dict[str, Any] = {
        "x-doc": {"text": description, "unit": unit, "why": why, "form": form},
        **constraints.pop("schema", {}),
    }
    if factory is not None:
        return Field(default_factory=factory, description=description, json_schema_extra=extra, **constraints)
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The model's fields by Python name."""
    return dict(model.model_fields)


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model an annotation holds, directly or as the items of a list or map."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := inner_model(item))), None)


def _whole(value: Any) -> Any:
    # 3.0 and 1e2 are whole numbers to the API server; a bool is not a number to anyone.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _floor(value: Any) -> Any:
    return int(value) if isinstance(value, float) and abs(value) < 1e30 else value


def _distinct(values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value!s} is listed twice")
        seen.add(value)
    return values


def _lenient_enum(**extra: Any) -> FieldInfo:
    # Strict mode would want the enum's member; a manifest has its string.
    return Field(strict=False, **extra)  # type: ignore[no-any-return]


Int = Annotated[int, BeforeValidator(_whole)]
# FLOPs outgrow int64 within hours on large machines, so the schema says number.
BigInt = Annotated[int, BeforeValidator(_floor), WithJsonSchema({"type": "number"})]
Choice = _lenient_enum()
Distinct = AfterValidator(_distinct)
SET = {"x-kubernetes-list-type": "set"}
ATOMIC = {"x-kubernetes-list-type": "atomic"}


def keyed(*keys: str) -> dict[str, Any]:
    """Schema keys of a list whose items are told apart by ``keys`` (YAML names)."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


PRESERVE = {"x-kubernetes-preserve-unknown-fields": True}

NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=NAME_PATTERN)]
Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=256)]
_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")


def _quantity(value: Any) -> Any:
    plain = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if plain or (isinstance(value, str) and _QUANTITY.fullmatch(value)):
        return value
    raise ValueError("a number that is not negative, with an optional suffix such as m, Mi or Gi")


# As in Kubernetes: 2, "500m", "4Gi".
Quantity = Annotated[
    str | int,
    BeforeValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": _QUANTITY.pattern, "minimum": 0}),
]
