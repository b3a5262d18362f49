"""Manifests from the command line: read, override single fields, validate."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import BadInput, ManifestError

if TYPE_CHECKING:
    from leyline.resources import TrainingRun

_STEP = re.compile(r"\.?([A-Za-z_][\w-]*)|\[(\d+)\]")


def load_manifest(file: Path, overrides: Sequence[str] = ()) -> TrainingRun:
    """The training run in ``file`` (``-``: standard input) with ``path=value`` overrides applied.

    Raises:
        BadInput: the file can't be read, or an override is not ``path=value``.
        ManifestError: fields are wrong; every one of them is named.
    """
    from leyline.errors import FieldError
    from leyline.resources import ManifestErrors, load
    from leyline.resources.documents import parse

    source = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadInput(f"{source}: {error.strerror or error}; give the path of a TrainingRun manifest") from error
    try:
        document = parse(text)
    except FieldError as error:
        raise ManifestError([str(error)], source) from error
    for override in overrides:
        document = apply(document, override)
    try:
        return load(document, source)
    except ManifestErrors as error:
        raise ManifestError([str(problem) for problem in error.errors], source) from error


def apply(document: Any, override: str) -> Any:
    """``document`` with one field replaced; ``training.epochs=5`` is short for ``spec.training.epochs=5``.

    The value is read as YAML. Objects on the way are made where they are missing.

    Raises:
        BadInput: not ``path=value``, or the path runs through something that is not an object or a list.
    """
    from leyline.errors import FieldError
    from leyline.resources.documents import parse

    path, separator, text = override.partition("=")
    steps = _steps(path.strip())
    if not separator or not steps:
        raise BadInput(f"--set {override}: write path=value, such as --set training.epochs=5")
    if steps[0] not in ("apiVersion", "kind", "metadata", "spec"):
        steps.insert(0, "spec")
    try:
        value = parse(text) if text.strip() else ""
    except FieldError as error:
        raise BadInput(f"--set {path}: {error}") from error
    if not isinstance(document, dict):
        return document  # the validation will say what is wrong with the whole document
    here: Any = document
    for index, step in enumerate(steps):
        _check(here, step, path)
        if index == len(steps) - 1:
            here[step] = value
        else:
            if isinstance(here, dict) and here.get(step) is None:
                here[step] = {}
            here = here[step]
    return document


def _steps(path: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or (match[0].startswith(".") and not steps):
            return []
        steps.append(match[1] if match[1] is not None else int(match[2]))
        position = match.end()
    return steps


def _check(here: Any, step: str | int, path: str) -> None:
    if isinstance(step, int):
        if not isinstance(here, list) or step >= len(here):
            size = f"has {len(here)} items" if isinstance(here, list) else "is not a list"
            raise BadInput(f"--set {path}: there is no item {step}, what it should be in {size}")
    elif not isinstance(here, dict):
        raise BadInput(f"--set {path}: {step!r} is looked for in something that is not an object")


def importable_beside(file: Path) -> None:
    """Let a task module that lies beside the manifest be found, after everything that is installed."""
    if str(file) != "-":
        directory = str(file.resolve().parent)
        if directory not in sys.path:
            sys.path.append(directory)
