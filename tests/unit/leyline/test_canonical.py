"""Canonical JSON: one spelling per value, and a reader that accepts nothing doubtful."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyline import canonical
from leyline.errors import FieldError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


@given(VALUES)
def test_a_value_survives_the_round_trip(value: Any) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@given(st.dictionaries(st.text(), SCALARS, min_size=2), st.randoms(use_true_random=False))
def test_insertion_order_does_not_show(mapping: dict[str, Any], random: Any) -> None:
    keys = list(mapping)
    random.shuffle(keys)
    assert canonical.digest({key: mapping[key] for key in keys}) == canonical.digest(mapping)


def test_the_form_is_ascii_without_spaces() -> None:
    assert canonical.dumps({"b": [1, True, None], "a": "é\n"}) == b'{"a":"\\u00e9\\n","b":[1,true,null]}'


def test_digest_is_the_sha256_of_the_form() -> None:
    assert canonical.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_true_and_one_differ() -> None:
    assert canonical.digest([True]) != canonical.digest([1])


def _nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def _cycle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [
        *(math.nan, [math.inf], {"a": -math.inf}, {1: "a"}, [{"a": {None: 1}}], {True: 0}, {"a": 1, 2: 3}),
        *({1, 2}, b"x", object(), _nested(200_000), _cycle(), 10**5000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(FieldError) as caught:
        canonical.dumps(value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "1 2", "'a'", "\x00", "NaN", "[Infinity]", "-Infinity", "1e999", "9" * 5000, "[" * 200_000),
        *('{"a":1,"a":1}', '[{"k":{"x":1,"x":2}}]', b"\xff\xfe", b'"\xc3\x28"'),
    ],
    ids=lambda text: str(text[:12]),
)
def test_doubtful_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(FieldError) as caught:
        canonical.loads(text)
    assert len(str(caught.value).splitlines()) == 1


@given(st.binary(max_size=64) | st.text(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    try:
        value = canonical.loads(data)
    except FieldError:
        return
    assert json.loads(data) == value
