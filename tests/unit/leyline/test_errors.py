"""Refusals are one line that names the place, the problem and what is allowed."""

from __future__ import annotations

import copy
import pickle  # only to show that errors cross process boundaries; nothing of the project reads pickles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline.errors import (
    BlueprintError,
    FieldError,
    IdentityError,
    InterfaceError,
    LeylineError,
    LifecycleError,
    describe,
    one_line,
)

LOCATED = [FieldError, BlueprintError, InterfaceError, LifecycleError, IdentityError]


def test_a_field_error_reads_as_path_problem_allowed() -> None:
    error = FieldError("spec.training.epochs", "0 is too small", "1 or more")
    assert str(error) == "spec.training.epochs: 0 is too small (allowed: 1 or more)"
    assert (error.path, error.problem, error.allowed) == ("spec.training.epochs", "0 is too small", "1 or more")


def test_without_a_place_or_alternatives_only_the_problem_is_said() -> None:
    assert str(FieldError("", "empty")) == "empty"


def test_a_blueprint_error_names_its_node() -> None:
    assert str(BlueprintError("a", "unknown operator 'exec'", "linear")) == (
        "node 'a': unknown operator 'exec' (allowed: linear)"
    )
    assert str(BlueprintError("", "empty")) == "blueprint: empty"


@pytest.mark.parametrize("kind", LOCATED)
@given(where=st.text(), problem=st.text(), allowed=st.none() | st.text())
def test_every_message_is_one_printable_line(
    kind: type[LeylineError], where: str, problem: str, allowed: str | None
) -> None:
    text = str(kind(where, problem, allowed))  # type: ignore[call-arg]
    assert text.isprintable()


@pytest.mark.parametrize("kind", LOCATED)
def test_errors_survive_the_way_between_processes(kind: type[LeylineError]) -> None:
    error = kind("here", "wrong", "right")  # type: ignore[call-arg]
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)  # noqa: S301


def _nested() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (1, "1 (int)"),
        (1.5, "1.5 (float)"),
        ("a\n", "'a\\n'"),
        (10**5000, "an integer of 16610 bits"),
        ("x" * 200, "'" + "x" * 80 + "'… (200 characters)"),
        (b"abc", "3 bytes"),
        ({"a": 1}, "an object with 1 keys"),
        (_nested(), "a list of 1 items"),
        (object(), "a value of type object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_described_without_trusting_them(value: object, text: str) -> None:
    assert describe(value) == text


def test_one_line_keeps_printable_text() -> None:
    assert one_line("a→b\r\n\x1b[31m\ud800") == "a→b\\r\\n\\x1b[31m\\ud800"
