"""What goes over the wire between the library's service and its clients: shapes, limits, and both ways of turning them.

Requests are strict: an unknown field, a number that is none, or a text where a list belongs is refused with its path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from esper.urza.errors import InvalidEntry
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    Count,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Lease,
    Report,
    State,
)
from esper.urza.shelf import MAX_FILES
from leyline.blueprint import BlueprintIR
from leyline.errors import LeylineError
from leyline.interface import Interface

VERSION = 1
"""Of the paths and shapes; a service and its client must agree on it."""
ROOT = f"/api/v{VERSION}"
MAX_PAGE = 500
"""Entries in one answer at most; more come by asking again after the last one."""
PAGE = 100

Text = Annotated[str, StringConstraints(max_length=512)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Wire(BaseModel):
    """Base of every request and answer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileEntry(Wire):
    """A file of an artifact: path inside its directory, sha256 and size in bytes."""

    name: Annotated[str, StringConstraints(max_length=256)]
    digest: Digest
    size: Annotated[int, Field(ge=0, le=1 << 40)]

    def entry(self) -> ArtifactFile:
        """As the library knows it."""
        return ArtifactFile(self.name, self.digest, self.size)


class RegisterBlueprint(Wire):
    """A design under a name; ``parents`` are names or digests. ``approved`` needs the role admin."""

    ir: dict[str, Any]
    risk: Number
    approved: bool = False
    parents: Annotated[list[Text], Field(max_length=64)] = []

    def design(self) -> BlueprintIR:
        """The design; raises ``InvalidEntry``."""
        try:
            return BlueprintIR.from_json(self.ir)
        except LeylineError as error:
            raise InvalidEntry(f"blueprint: {error}") from error


class Approval(Wire):
    """Whether a person allows a design whatever its risk."""

    approved: bool


class Begin(Wire):
    """An artifact that is wanted; the id must follow from the rest."""

    artifact_id: Text
    blueprint: Text
    interface: dict[str, Any]
    strategy: Text
    hardware: Text
    toolchain: Text


class Query(Wire):
    """What a slot needs; ``reports`` asks for whole validation reports too. ``offset`` skips answers already had."""

    interface: dict[str, Any]
    hardware: Text
    tags: Annotated[list[Text], Field(max_length=64)] = []
    max_risk: Number = 1.0
    strategies: Annotated[list[Text], Field(max_length=8)] = []
    toolchain: Text | None = None
    blueprints: Annotated[list[Text], Field(max_length=1000)] | None = None
    reports: bool = False
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = PAGE

    def question(self) -> KernelQuery:
        """As the library asks it; raises ``InvalidEntry``."""
        return KernelQuery(
            interface_of(self.interface), self.hardware, tuple(self.tags), self.max_risk, tuple(self.strategies),
            self.toolchain, None if self.blueprints is None else tuple(self.blueprints),
        )  # fmt: skip


class Files(Wire):
    """Every file of an artifact; their bytes were uploaded before."""

    files: Annotated[list[FileEntry], Field(min_length=1, max_length=MAX_FILES)]

    def entries(self) -> list[ArtifactFile]:
        """As the library knows them."""
        return [file.entry() for file in self.files]


class Certify(Files):
    """The report that decided, and every file of the artifact with its signatures."""

    report: dict[str, Any]


class Cause(Wire):
    """Why."""

    cause: Annotated[str, StringConstraints(max_length=100_000)]


class Verdict(Cause):
    """Why, and the report if there is one."""

    report: dict[str, Any] | None = None


class NewFieldReport(Wire):
    """How one seed did in one run."""

    message_id: Text
    run: Text
    seed: Text
    blueprint: Text
    artifact_id: Text
    outcome: Text
    pre_metric: Number | None = None
    post_metric: Number | None = None
    measurements: Annotated[dict[Text, Number], Field(max_length=1000)] = {}

    def entry(self) -> FieldReport:
        """As the library knows it."""
        return FieldReport(**self.model_dump())


class TakeLease(Wire):
    """Artifacts a run holds for so many seconds."""

    run: Text
    artifacts: Annotated[list[Text], Field(max_length=1000)]
    seconds: Number


class GiveUpLease(Wire):
    """A run's leases, or those on some artifacts."""

    run: Text
    artifacts: Annotated[list[Text], Field(max_length=1000)] | None = None


class Collect(Wire):
    """What is younger than the grace period stays."""

    older_than_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 86_400.0


class ErrorDetail(Wire):
    """``code`` names the kind of error, ``trace_id`` the request in the service's logs."""

    code: str
    message: str
    trace_id: str


class ErrorBody(Wire):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def interface_of(data: Mapping[str, Any]) -> Interface:
    """An interface from its JSON form; raises ``InvalidEntry``."""
    try:
        return Interface.from_dict(dict(data))
    except LeylineError as error:
        raise InvalidEntry(f"interface: {error}") from error


def blueprint_out(record: BlueprintRecord) -> dict[str, Any]:
    """A blueprint as JSON."""
    return {
        "name": record.name, "digest": record.digest, "ir": record.ir.to_dict(), "risk": record.risk,
        "approved": record.approved, "parents": list(record.parents),
    }  # fmt: skip


def blueprint_in(data: Mapping[str, Any]) -> BlueprintRecord:
    """A blueprint from JSON."""
    ir = BlueprintIR.from_json(dict(data["ir"]))
    return BlueprintRecord(
        data["name"], data["digest"], ir, data["risk"], data["approved"], tuple(data["parents"])
    )  # fmt: skip


_RECORD = tuple(name for name in KernelRecord.__slots__ if name != "report")


def record_out(record: KernelRecord) -> dict[str, Any]:
    """A record as JSON, without its report."""
    return {name: getattr(record, name) for name in _RECORD}


def record_in(data: Mapping[str, Any]) -> KernelRecord:
    """A record from JSON."""
    known = {name: data[name] for name in _RECORD}
    known["state"], known["tags"] = State(known["state"]), tuple(known["tags"])
    return KernelRecord(**known, report=data.get("report") or {})


def offers_out(records: Sequence[msgspec.Struct], following: int | None) -> bytes:
    """A query's answer as JSON; reports are passed on as they were stored."""
    return msgspec.json.encode({"records": records, "next": following})


class Offered(msgspec.Struct):
    """The answer to a query: records with the reports that were asked for, and where the next page begins."""

    records: list[KernelRecord]
    next: int | None


_OFFERED = msgspec.json.Decoder(Offered)


def offers_in(data: bytes) -> Offered:
    """A query's answer from JSON; raises ``ValueError`` when it is none."""
    try:
        return _OFFERED.decode(data)
    except msgspec.MsgspecError:
        # A report may hold what only Python's own reader takes, such as half a surrogate pair.
        said = json.loads(data)
        try:
            return Offered([record_in(item) for item in said["records"]], said["next"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a query's answer: {error}") from error


def report_out(report: Report) -> dict[str, Any]:
    """A validation report as JSON."""
    return {**asdict(report), "verdict": report.verdict.value}


def report_in(data: Mapping[str, Any]) -> Report:
    """A validation report from JSON."""
    return Report(data["artifact_id"], State(data["verdict"]), data["digest"], data["body"])


def change_out(change: Change) -> dict[str, Any]:
    """A change of state as JSON."""
    return {
        "artifact_id": change.artifact_id, "source": change.source.value if change.source else None,
        "target": change.target.value, "cause": change.cause, "at": change.at,
    }  # fmt: skip


def change_in(data: Mapping[str, Any]) -> Change:
    """A change of state from JSON."""
    source = State(data["source"]) if data["source"] else None
    return Change(data["artifact_id"], source, State(data["target"]), data["cause"], data["at"])


def count_out(count: Count) -> dict[str, Any]:
    """A count as JSON."""
    return {**asdict(count), "state": count.state.value}


def count_in(data: Mapping[str, Any]) -> Count:
    """A count from JSON."""
    return Count(State(data["state"]), data["strategy"], data["hardware"], data["artifacts"])


def file_in(data: Mapping[str, Any]) -> ArtifactFile:
    """A file from JSON; raises ``InvalidEntry``."""
    return ArtifactFile(str(data["name"]), str(data["digest"]), int(data["size"]))


def field_report_in(data: Mapping[str, Any]) -> FieldReport:
    """A field report from JSON."""
    return FieldReport(**{name: data[name] for name in FieldReport.__slots__})


def lease_in(data: Mapping[str, Any]) -> Lease:
    """A lease from JSON."""
    return Lease(data["run"], data["artifact_id"], data["expires_at"])
