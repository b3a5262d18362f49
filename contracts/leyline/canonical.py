"""Canonical JSON: one byte string per value, so that digests and signatures of equal values are equal."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from leyline.errors import FieldError, describe

_ALLOWED = "null, booleans, integers, finite floats, strings, lists and objects with string keys"


def dumps(obj: Any) -> bytes:
    """Encode `obj` as ASCII JSON with sorted keys and no spaces.

    Raises:
        FieldError: the value has something that JSON cannot hold (NaN, a non-string key, a cycle, any other type).
    """
    try:
        text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise FieldError("", f"not representable as canonical JSON: {reason}", _ALLOWED) from None
    for mapping in _mappings(obj):  # json would silently turn the keys 1 and True into "1" and "true"
        for key in mapping:
            if not isinstance(key, str):
                raise FieldError("", f"object key {describe(key)} is not a string", _ALLOWED)
    return text.encode("ascii")


def digest(obj: Any) -> str:
    """Return the SHA-256 of `dumps(obj)` as 64 lower-case hexadecimal digits.

    Raises:
        FieldError: as for `dumps`.
    """
    return hashlib.sha256(dumps(obj)).hexdigest()


def loads(data: bytes | bytearray | str) -> Any:
    """Decode JSON strictly: UTF-8, no duplicate keys, no NaN or infinity, no absurd nesting or number.

    Raises:
        FieldError: the text is anything else.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as problem:
        raise FieldError("", f"not UTF-8 at byte {problem.start}", "UTF-8") from None
    except RecursionError:
        raise FieldError("", "nested too deeply", _ALLOWED) from None
    except ValueError as problem:  # includes json.JSONDecodeError and integers too long to convert
        raise FieldError("", f"not valid JSON: {problem}", _ALLOWED) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise FieldError("", f"key {describe(next(n for n in names if names.count(n) > 1))} appears twice", "each once")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{describe(text)} is out of range")
    return value


def _mappings(obj: Any) -> Iterator[dict[Any, Any]]:
    waiting = [obj]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
