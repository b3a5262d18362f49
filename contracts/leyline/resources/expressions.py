"""Conditions over several fields, written once and read twice: by Python and, as CEL, by the API server.

An expression names fields by their Python names; ``cel()`` spells them as YAML does. Only what the rules need exists.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.alias_generators import to_camel

Scope = Mapping[str, Any]


class Condition(ABC):
    """A boolean expression over one model object."""

    @abstractmethod
    def cel(self) -> str:
        """The expression in the Common Expression Language."""

    @abstractmethod
    def holds(self, scope: Scope) -> bool:
        """Evaluate with ``scope`` giving the objects by name (``self`` and loop variables)."""

    def __and__(self, other: Condition) -> Condition:
        return _Join("&&", self, other)

    def __or__(self, other: Condition) -> Condition:
        return _Join("||", self, other)

    def implies(self, other: Condition) -> Condition:
        """``not self or other``."""
        return Not(self) | other


@dataclass(frozen=True)
class Field:
    """A field by its dotted Python path, from the object itself or from a loop variable."""

    path: str
    root: str = "self"

    def cel(self) -> str:
        """The field as CEL reaches it."""
        return ".".join([self.root, *(to_camel(part) for part in self.path.split("."))])

    def read(self, scope: Scope) -> Any:
        """The field's value."""
        value = scope[self.root]
        for part in self.path.split("."):
            value = getattr(value, part)
        return value

    def is_set(self) -> Condition:
        """The optional field has a value."""
        return _IsSet(self)

    def equals(self, value: str | int | float) -> Condition:
        """Equal to a constant."""
        return _Compare("==", self, value)

    def at_least(self, value: int | float | Field) -> Condition:
        """``>=`` a constant or another field of the same type."""
        return _Compare(">=", self, value)

    def at_most(self, value: int | float | Field) -> Condition:
        """``<=`` a constant or another field of the same type."""
        return _Compare("<=", self, value)

    def multiple_of(self, value: Field) -> Condition:
        """A whole number that the other, which is at least 1, divides."""
        return _Multiple(self, value)

    def empty(self) -> Condition:
        """A list without items."""
        return _Size(self, 0)

    def has_items(self, count: int) -> Condition:
        """A list of exactly ``count`` items."""
        return _Size(self, count)

    def contains(self, item: Field) -> Condition:
        """A list that holds ``item``."""
        return _Contains(self, item)

    def all_items(self, variable: str, condition: Condition) -> Condition:
        """Each item of the list, bound to ``variable``, satisfies ``condition``."""
        return _All(self, variable, condition)


def _constant(value: str | int | float) -> str:
    # CEL keeps 0 (int) and 0.0 (double) apart, as the schema does with integer and number.
    return json.dumps(value)


@dataclass(frozen=True)
class _IsSet(Condition):
    field: Field

    def cel(self) -> str:
        return f"has({self.field.cel()})"

    def holds(self, scope: Scope) -> bool:
        return self.field.read(scope) is not None


@dataclass(frozen=True)
class _Compare(Condition):
    operator: str
    field: Field
    value: str | int | float | Field

    def cel(self) -> str:
        right = self.value.cel() if isinstance(self.value, Field) else _constant(self.value)
        return f"{self.field.cel()} {self.operator} {right}"

    def holds(self, scope: Scope) -> bool:
        left = self.field.read(scope)
        right = self.value.read(scope) if isinstance(self.value, Field) else self.value
        if self.operator == "==":
            return bool(left == right)
        return bool(left >= right) if self.operator == ">=" else bool(left <= right)


@dataclass(frozen=True)
class _Multiple(Condition):
    field: Field
    of: Field

    def cel(self) -> str:
        return f"{self.field.cel()} % {self.of.cel()} == 0"

    def holds(self, scope: Scope) -> bool:
        return bool(self.field.read(scope) % self.of.read(scope) == 0)


@dataclass(frozen=True)
class _Size(Condition):
    field: Field
    count: int

    def cel(self) -> str:
        return f"size({self.field.cel()}) == {self.count}"

    def holds(self, scope: Scope) -> bool:
        return len(self.field.read(scope)) == self.count


@dataclass(frozen=True)
class _Contains(Condition):
    field: Field
    item: Field

    def cel(self) -> str:
        return f"{self.item.cel()} in {self.field.cel()}"

    def holds(self, scope: Scope) -> bool:
        return self.item.read(scope) in self.field.read(scope)


@dataclass(frozen=True)
class _All(Condition):
    field: Field
    variable: str
    condition: Condition

    def cel(self) -> str:
        return f"{self.field.cel()}.all({self.variable}, {self.condition.cel()})"

    def holds(self, scope: Scope) -> bool:
        return all(self.condition.holds({**scope, self.variable: item}) for item in self.field.read(scope))


@dataclass(frozen=True)
class Not(Condition):
    """The opposite."""

    condition: Condition

    def cel(self) -> str:
        """The negated expression."""
        return f"!({self.condition.cel()})"

    def holds(self, scope: Scope) -> bool:
        """True when the inner condition is false."""
        return not self.condition.holds(scope)


@dataclass(frozen=True)
class _Join(Condition):
    operator: str
    left: Condition
    right: Condition

    def cel(self) -> str:
        return f"({self.left.cel()} {self.operator} {self.right.cel()})"

    def holds(self, scope: Scope) -> bool:
        if self.operator == "&&":
            return self.left.holds(scope) and self.right.holds(scope)
        return self.left.holds(scope) or self.right.holds(scope)
