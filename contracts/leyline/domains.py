"""Domains of blueprint parameters: which values an operator's parameter may have, and how they are written.

Values are integers, booleans and words; no floats and no code. A width may be bound to the slot's: `w`, `4w`, `w/4`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from leyline.interface import MAX_WIDTH

Value = int | bool | str

BOUND_WIDTH = re.compile(r"([1-9][0-9]*)?w(?:/([1-9][0-9]*))?", re.ASCII)
"""A width bound to the slot's: a multiple and a divisor, both optional."""


class Domain(Protocol):
    """The values a parameter may have."""

    @property
    def allowed(self) -> str:
        """The domain in words."""
        ...

    def holds(self, value: object) -> bool:
        """Whether the value is in the domain; types are exact, so True is not 1."""
        ...

    def normal(self, value: Value) -> Value:
        """Return the one spelling of a value in the domain."""
        ...


class _Plain:
    def normal(self, value: Value) -> Value:
        """Return the value: it has one spelling."""
        return value


@dataclass(frozen=True)
class Boolean(_Plain):
    """True or false."""

    allowed: str = "true or false"

    def holds(self, value: object) -> bool:
        """Whether the value is a boolean."""
        return type(value) is bool


@dataclass(frozen=True)
class Integer(_Plain):
    """Integers from `low` to `high`, inclusive; optionally only odd ones."""

    low: int
    high: int
    odd: bool = False

    @property
    def allowed(self) -> str:
        """The domain in words."""
        return f"{'an odd' if self.odd else 'an'} integer from {self.low} to {self.high}"

    def holds(self, value: object) -> bool:
        """Whether the value is such an integer."""
        return type(value) is int and self.low <= value <= self.high and not (self.odd and value % 2 == 0)


@dataclass(frozen=True)
class Choice(_Plain):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The domain in words."""
        return ", ".join(self.words)

    def holds(self, value: object) -> bool:
        """Whether the value is one of the words."""
        return type(value) is str and value in self.words


@dataclass(frozen=True)
class Width:
    """A number of features: an integer, or bound to the slot's width."""

    @property
    def allowed(self) -> str:
        """The domain in words."""
        return f"an integer from 1 to {MAX_WIDTH}, or bound to the slot's width, as w, 4w or w/4"

    def holds(self, value: object) -> bool:
        """Whether the value is a width; whether it fits a slot is a matter of shapes."""
        if type(value) is int:
            return 1 <= value <= MAX_WIDTH
        return type(value) is str and len(value) <= 16 and all(1 <= n <= MAX_WIDTH for n in _ratio(value) or (0,))

    def normal(self, value: Value) -> Value:
        """Return the ratio in lowest terms: `2w/4` is `w/2`, `1w` is `w`."""
        ratio = _ratio(value) if isinstance(value, str) else None
        if ratio is None:
            return value
        common = math.gcd(*ratio)
        times, over = ratio[0] // common, ratio[1] // common
        return f"{times if times > 1 else ''}w{f'/{over}' if over > 1 else ''}"


@dataclass(frozen=True)
class Either:
    """A value of any of several domains."""

    domains: Sequence[Domain]

    @property
    def allowed(self) -> str:
        """The domain in words."""
        return ", or ".join(domain.allowed for domain in self.domains)

    def holds(self, value: object) -> bool:
        """Whether any of the domains holds it."""
        return any(domain.holds(value) for domain in self.domains)

    def normal(self, value: Value) -> Value:
        """Return the spelling of the first domain that holds it."""
        return next(domain.normal(value) for domain in self.domains if domain.holds(value))


@dataclass(frozen=True)
class Param:
    """A named parameter of an operator; without a default it must be given."""

    name: str
    domain: Domain
    default: Value | None = None


BOOLEAN = Boolean()
WIDTH = Width()


def resolve(value: Value, width: int) -> Value:
    """Turn a width bound to the slot's into a number, given the slot's `width`; return anything else unchanged.

    Raises:
        ValueError: the slot's width does not give a whole number from 1 to `MAX_WIDTH`; the text says why.
    """
    ratio = _ratio(value) if isinstance(value, str) else None
    if ratio is None:
        return value
    times, over = ratio
    number, rest = divmod(width * times, over)
    if rest:
        raise ValueError(f"{value} is not a whole number for a slot of width {width}")
    if not 1 <= number <= MAX_WIDTH:
        raise ValueError(f"{value} is {number} for a slot of width {width}")
    return number


def _ratio(text: str) -> tuple[int, int] | None:
    match = BOUND_WIDTH.fullmatch(text)
    return (int(match[1] or 1), int(match[2] or 1)) if match else None
