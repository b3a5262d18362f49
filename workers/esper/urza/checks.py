"""What may enter the library. Everything here comes from outside: a worker, a manifest, a command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.urza.errors import InvalidEntry
from leyline import canonical
from leyline.errors import FieldError, IdentityError, describe
from leyline.identity import ArtifactId

MAX_REPORT = 1 << 20
MAX_TAGS = 32
MAX_CAUSE = 8192

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", re.ASCII)
_TAG = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


def artifact_id(value: str | ArtifactId) -> ArtifactId:
    """Parse an id; raises ``InvalidEntry``."""
    if isinstance(value, ArtifactId):
        return value
    try:
        return ArtifactId.parse(value)
    except IdentityError as error:
        raise InvalidEntry(str(error)) from error


def name(value: str, what: str = "blueprint name") -> str:
    """A name people write: letters, digits, ``.``, ``_``, ``/`` and ``-``, no step upwards; raises ``InvalidEntry``."""
    if not isinstance(value, str) or _NAME.fullmatch(value) is None or ".." in value:
        raise InvalidEntry(f"{what} {describe(value)}: letters, digits, '.', '_', '/' and '-' only, at most 128")
    return value


def tags(values: Iterable[str]) -> tuple[str, ...]:
    """Tags, sorted and each once; raises ``InvalidEntry``."""
    if isinstance(values, str):
        raise InvalidEntry(f"tags {describe(values)}: must be a list")
    found = sorted({tag(value) for value in values})
    if len(found) > MAX_TAGS:
        raise InvalidEntry(f"tags: {len(found)} of them, at most {MAX_TAGS} allowed")
    return tuple(found)


def tag(value: str) -> str:
    """One tag, such as ``high_speed``; raises ``InvalidEntry``."""
    if not isinstance(value, str) or _TAG.fullmatch(value) is None:
        raise InvalidEntry(f"tag {describe(value)}: lower-case letters, digits and '_' only, at most 64")
    return value


def risk(value: float, what: str = "risk") -> float:
    """A number from 0 to 1; raises ``InvalidEntry``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidEntry(f"{what} {describe(value)}: must be a number from 0 to 1")
    return float(value)


def measured(value: Any, what: str) -> float | None:
    """A finite number of at least 0, or nothing; raises ``InvalidEntry``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidEntry(f"{what} {describe(value)}: must be a finite number of at least 0, or absent")
    return float(value)


def metric(value: Any, what: str) -> float | None:
    """A finite number, or nothing; raises ``InvalidEntry``."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidEntry(f"{what} {describe(value)}: must be a finite number, or absent")
    return float(value)


def cause(value: str) -> str:
    """A reason as text that can be printed, cut to ``MAX_CAUSE`` characters; raises ``InvalidEntry`` when empty."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value).strip()
    if not text:
        raise InvalidEntry("cause: must say why")
    return text if len(text) <= MAX_CAUSE else f"{text[: MAX_CAUSE // 2]}\n…\n{text[-MAX_CAUSE // 2 :]}"


@dataclass(frozen=True, slots=True)
class CheckedReport:
    """A validation report as it is stored, and what queries see of it."""

    body: str
    digest: str
    ratio: float | None
    latency_ms: float | None
    memory_mb: float | None
    tags: tuple[str, ...]
    risk: float | None


def report(values: Mapping[str, Any]) -> CheckedReport:
    """Check a validation report; its digest is the one of its canonical JSON. Raises ``InvalidEntry``."""
    try:
        body = canonical.dumps(dict(values))
    except FieldError as error:
        raise InvalidEntry(f"report: {error}") from error
    if len(body) > MAX_REPORT:
        raise InvalidEntry(f"report: {len(body)} bytes, at most {MAX_REPORT} allowed")
    return CheckedReport(
        body=body.decode("ascii"),
        digest=canonical.digest(dict(values)),
        ratio=measured(values.get("ratio"), "report field ratio"),
        latency_ms=measured(values.get("latency_ms_mean"), "report field latency_ms_mean"),
        memory_mb=measured(values.get("memory_mb_peak"), "report field memory_mb_peak"),
        tags=tags(values.get("tags") or ()),
        risk=None if values.get("risk") is None else risk(values["risk"], "report field risk"),
    )
