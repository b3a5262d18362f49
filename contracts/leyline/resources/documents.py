"""Text of a manifest to plain values, as the API server would read it, and nothing more.

PyYAML's safe loader reads YAML 1.1: ``1e-3`` is a string to it, ``1:30`` is ninety, a date is an object. Kubernetes'
clients read numbers as JSON does, so the scalars are resolved by a table of our own. Duplicate keys, aliases that
blow up, deep nesting and oversized documents are refused before anything is built.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from leyline.errors import FieldError

MAX_BYTES = 1024 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 48

_TAG = "tag:yaml.org,2002:"
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+|0[0-7_]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Safe loader with the scalar rules above and without duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; keys must be distinct strings."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _TAG + "merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a collection"
                raise FieldError(_line(key), f"the key {shown} is not a string", "quote it")
            if key.value in seen:
                raise FieldError(_line(key), f"the key {key.value} appears twice", "keep one of them")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _name, _pattern, _first in _SCALARS:
    for _char in _first:
        _key = "" if _char == "\0" else _char
        _Loader.yaml_implicit_resolvers.setdefault(_key, []).append((_TAG + _name, re.compile(f"(?:{_pattern})\\Z")))


def parse(text: str | bytes) -> Any:
    """Plain values of one YAML or JSON document.

    Raises ``leyline.errors.FieldError`` for anything that is not one bounded, JSON-like document.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise FieldError("document", f"{len(data)} bytes long", f"at most {MAX_BYTES} bytes")
    try:
        source = data.decode("utf-8")
        _measure(source)
        loader = _Loader(source)
        try:
            node = loader.get_single_node()
            if node is None:
                raise FieldError("document", "empty", "one resource")
            _expanded_size(node)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise FieldError("document", f"not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "document"
        raise FieldError(where, error.problem or "not valid YAML", "valid YAML") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FieldError("document", f"not valid YAML ({str(error).splitlines()[0]})", "valid YAML") from error
    check_plain(value)
    return value


def _line(of: yaml.Node | yaml.Event) -> str:
    return f"line {of.start_mark.line + 1}" if of.start_mark else "document"


def _measure(source: str) -> None:
    """Refuse deep nesting, many nodes and several documents while they are still a stream of events."""
    depth = nodes = documents = 0
    for event in yaml.parse(source, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise FieldError(_line(event), "a second document begins here", "one resource per document")
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            nodes += 1
            if depth > MAX_DEPTH:
                raise FieldError(_line(event), "nested too deeply", f"at most {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
        if nodes > MAX_NODES:
            raise FieldError("document", f"more than {MAX_NODES} values", "a smaller document")


def _expanded_size(node: yaml.Node) -> None:
    """Refuse aliases that repeat themselves or multiply the document beyond the node limit."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(of: yaml.Node, depth: int) -> int:
        if id(of) in open_nodes:
            raise FieldError(_line(of), "an anchor contains itself", "write the value out")
        if depth > MAX_DEPTH:
            raise FieldError(_line(of), "nested too deeply through aliases", f"at most {MAX_DEPTH} levels")
        if id(of) in sizes:
            return sizes[id(of)]
        open_nodes.add(id(of))
        total = 1
        if isinstance(of, yaml.SequenceNode):
            total += sum(size(item, depth + 1) for item in of.value)
        elif isinstance(of, yaml.MappingNode):
            total += sum(size(key, depth + 1) + size(value, depth + 1) for key, value in of.value)
        open_nodes.discard(id(of))
        sizes[id(of)] = total
        return total

    if size(node, 1) > MAX_NODES:
        raise FieldError("document", "its aliases multiply it too far", f"at most {MAX_NODES} values in all")


def check_plain(value: Any) -> None:
    """Refuse what JSON can't say, in a value that may have come from Python: depth, size, types, non-finite numbers."""
    nodes = 0
    stack: list[tuple[str, Any, int]] = [("", value, 1)]
    while stack:
        path, item, depth = stack.pop()
        nodes += 1
        where = path or "document"
        if nodes > MAX_NODES:
            raise FieldError("document", f"more than {MAX_NODES} values", "a smaller document")
        if depth > MAX_DEPTH:
            raise FieldError(where, "nested too deeply", f"at most {MAX_DEPTH} levels")
        if isinstance(item, dict):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise FieldError(where, f"the key {key!r} is not a string", "string keys")
                stack.append((f"{path}.{key}" if path else key, inner, depth + 1))
        elif isinstance(item, list):
            stack.extend((f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(item))
        elif isinstance(item, float) and not math.isfinite(item):
            raise FieldError(where, f"{item} is not a finite number", "a finite number")
        elif item is not None and not isinstance(item, str | int | float | bool):
            raise FieldError(
                where, f"a {type(item).__name__} is not JSON", "an object, list, string, number or boolean"
            )


def closest(word: str, choices: list[str]) -> str | None:
    """The choice nearest to a misspelt word, or None when none is near."""
    lowered = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None
