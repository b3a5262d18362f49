"""What may enter the library. Everything here comes from outside: a worker, a manifest, a command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.urza.errors import InvalidEntry
from esper.urza.library import FieldReport
from leyline import canonical
from leyline.errors import FieldError, IdentityError, describe
from leyline.identity import ArtifactId

MAX_REPORT = 1 << 20
MAX_TAGS = 32
MAX_CAUSE = 8192
MAX_LEASE_SECONDS = 7 * 86_400.0
"""A run renews its leases; one that is gone for a week holds nothing any more."""

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


def printable(value: str, what: str, longest: int) -> str:
    """1 to ``longest`` printable characters; raises ``InvalidEntry``."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise InvalidEntry(f"{what} {describe(value)}: must be 1 to {longest} printable characters")
    return value


def measured(value: Any, what: str) -> float | None:
    """A finite number of at least 0, or nothing; raises ``InvalidEntry``."""
    if value is None:
        return None
    if not _finite(value) or value < 0:
        raise InvalidEntry(f"{what} {describe(value)}: must be a finite number of at least 0, or absent")
    return float(value)


def metric(value: Any, what: str) -> float | None:
    """A finite number, or nothing; raises ``InvalidEntry``."""
    if value is None:
        return None
    if not _finite(value):
        raise InvalidEntry(f"{what} {describe(value)}: must be a finite number, or absent")
    return float(value)


def _finite(value: Any) -> bool:
    # Whole numbers beyond what a float holds have no business here either.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 63


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


def field_report(report: FieldReport) -> dict[str, Any]:
    """A field report as it is stored; raises ``InvalidEntry``."""
    for key, value in report.measurements.items():
        if metric(value, f"field report measurement {key!r}") is None:
            raise InvalidEntry(f"field report measurement {key!r}: must be a number")
    try:
        measurements = canonical.dumps(dict(report.measurements)).decode("ascii")
    except FieldError as error:
        raise InvalidEntry(f"field report measurements: {error}") from error
    if len(measurements) > MAX_REPORT:
        raise InvalidEntry(f"field report measurements: {len(measurements)} bytes, at most {MAX_REPORT} allowed")
    return {
        "message_id": printable(report.message_id, "field report message id", 128),
        "run": printable(report.run, "field report run", 128),
        "seed": printable(report.seed, "field report seed", 256),
        "blueprint": name(report.blueprint),
        "artifact_id": str(artifact_id(report.artifact_id)),
        "outcome": printable(report.outcome, "field report outcome", 32),
        "pre_metric": metric(report.pre_metric, "field report pre_metric"),
        "post_metric": metric(report.post_metric, "field report post_metric"),
        "measurements": measurements,
    }


def lease_seconds(value: float) -> float:
    """How long a lease lasts, more than 0 s and at most ``MAX_LEASE_SECONDS``; raises ``InvalidEntry``."""
    if not _finite(value) or not 0 < value <= MAX_LEASE_SECONDS:
        raise InvalidEntry(f"lease of {describe(value)} s: must be more than 0 and at most {MAX_LEASE_SECONDS:g}")
    return float(value)
