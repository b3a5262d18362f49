"""The paths of the service. Each says who may use it; what it does is the library's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPBearer

from esper.errors import LibraryError
from esper.urza import wire
from esper.urza.errors import AccessDenied, BlobMissing, InvalidEntry
from esper.urza.library import State
from esper.urza.service import problems
from esper.urza.service.files import Files
from esper.urza.sql import SqlLibrary

READ = ("reader", "trainer", "worker", "admin")
RUN = ("trainer", "admin")
WORK = ("worker", "admin")
RULE = ("admin",)
ENTER = ("trainer", "worker", "admin")

Limit = Annotated[int, Query(ge=1, le=wire.MAX_PAGE)]
After = Annotated[str, Query(max_length=256)]
Id = str
# Only says in the OpenAPI document what the gate demands.
_BEARER = HTTPBearer(auto_error=False, description="A token of the configured OIDC issuer.")
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.ErrorBody, "description": what}
    for status, what in {
        401: "no valid token", 403: "not allowed for this role", 404: "not there", 409: "not in this state",
        413: "too large", 422: "malformed", 429: "too often", 503: "database, store or issuer away",
    }.items()
}  # fmt: skip


def answer(value: Any, status: int = 200) -> Response:
    """JSON, as plain ASCII."""
    return Response(problems.encoded(value), status, media_type="application/json")


def offered(library: SqlLibrary, asked: wire.Query) -> bytes:
    """The answer to a query."""
    found = library.offered(asked.question(), asked.reports)
    page = found[asked.offset : asked.offset + asked.limit]
    following = asked.offset + len(page)
    return wire.offers_out(page, following if following < len(found) else None)


def allowed(*roles: str) -> dict[str, Any]:
    """Let in callers with one of these roles, and say so in the OpenAPI document."""

    async def check(request: Request) -> None:
        caller = request.state.caller
        if caller is None or not caller.roles & set(roles):
            raise AccessDenied(f"this needs one of the roles {', '.join(roles)}; the token has none of them")

    return {"dependencies": [Depends(check)], "openapi_extra": {"x-roles": list(roles)}}


def router(library: SqlLibrary, files: Files) -> APIRouter:
    """Every path below ``/api/v1``."""
    made = APIRouter(prefix=wire.ROOT, responses=PROBLEMS, dependencies=[Depends(_BEARER)])
    _callers(made)
    for part in (_blueprints, _artifacts, _steps, _reports):
        part(made, library)
    _bytes(made, library, files)
    return made


def _callers(api: APIRouter) -> None:
    @api.get("/caller", **allowed(*READ), summary="Who the service takes the caller for")
    def caller(request: Request) -> Response:
        known = request.state.caller
        return answer({"subject": known.subject, "roles": sorted(known.roles), "version": wire.VERSION})


def _blueprints(api: APIRouter, library: SqlLibrary) -> None:
    @api.get("/blueprints", **allowed(*READ), summary="Designs by name")
    def blueprints(after: After = "", limit: Limit = wire.PAGE) -> Response:
        found = library.blueprints(_text(after), limit)
        return answer(_page([wire.blueprint_out(record) for record in found], limit, lambda last: last["name"]))

    @api.get("/blueprints/{blueprint:path}", **allowed(*READ), summary="A design, by name or digest")
    def blueprint(blueprint: Id) -> Response:
        return answer(wire.blueprint_out(library.blueprint(blueprint)))

    @api.put("/blueprints/{blueprint:path}", **allowed(*ENTER), summary="Register a design under a name")
    def register(blueprint: Id, asked: wire.RegisterBlueprint, request: Request) -> Response:
        if asked.approved and "admin" not in request.state.caller.roles:
            raise AccessDenied("approving a design needs the role admin; register it without approval")
        digest = library.register_blueprint(blueprint, asked.design(), asked.risk, asked.approved, asked.parents)
        return answer({"digest": digest})

    @api.put("/approvals/{blueprint:path}", **allowed(*RULE), summary="Approve a design, or take it back")
    def approve(blueprint: Id, asked: wire.Approval) -> Response:
        library.approve(blueprint, asked.approved)
        return answer({"approved": asked.approved})

    @api.get("/lineage/{blueprint:path}", **allowed(*READ), summary="What it comes from and led to")
    def lineage(blueprint: Id) -> Response:
        return answer(asdict(library.lineage(blueprint)))


def _artifacts(api: APIRouter, library: SqlLibrary) -> None:
    @api.post("/kernels/query", **allowed(*READ), summary="Certified kernels that fit a slot")
    def query(asked: wire.Query) -> Response:
        return Response(offered(library, asked), media_type="application/json")

    @api.post("/artifacts", **allowed(*ENTER), summary="Ask for an artifact to be built")
    def begin(asked: wire.Begin) -> Response:
        interface = wire.interface_of(asked.interface)
        state = library.begin(
            asked.artifact_id, asked.blueprint, interface, asked.strategy, asked.hardware, asked.toolchain
        )
        return _state(asked.artifact_id, state)

    @api.get("/artifacts", **allowed(*READ), summary="Artifacts, of some states or all, by id")
    def artifacts(
        state: Annotated[list[str] | None, Query(max_length=16)] = None, after: After = "", limit: Limit = wire.PAGE
    ) -> Response:
        found = library.records(_states(state or ()), _text(after), limit)
        items = [{**wire.record_out(record), "report": record.report} for record in found]
        return answer(_page(items, limit, lambda last: last["artifact_id"]))

    @api.get("/counts", **allowed(*READ), summary="How many artifacts, by state, strategy and hardware")
    def counts(state: Annotated[list[str] | None, Query(max_length=16)] = None) -> Response:
        return answer({"items": [wire.count_out(count) for count in library.counts(_states(state or ()))]})

    @api.get("/artifacts/{artifact_id}", **allowed(*READ), summary="An artifact in whatever state")
    def artifact(artifact_id: Id) -> Response:
        record = library.record(artifact_id)
        return answer({**wire.record_out(record), "report": record.report})

    @api.get("/artifacts/{artifact_id}/interface", **allowed(*READ), summary="What it takes and gives")
    def interface(artifact_id: Id) -> Response:
        return answer(library.interface(artifact_id).to_dict())

    @api.get("/artifacts/{artifact_id}/files", **allowed(*READ), summary="What it consists of")
    def listed(artifact_id: Id) -> Response:
        return answer({"items": [asdict(file) for file in library.files(artifact_id)]})

    @api.get("/artifacts/{artifact_id}/reports", **allowed(*READ), summary="Its reports, oldest first")
    def reports(artifact_id: Id) -> Response:
        return answer({"items": [wire.report_out(report) for report in library.reports(artifact_id)]})

    @api.get("/artifacts/{artifact_id}/history", **allowed(*READ), summary="Its changes, oldest first")
    def history(artifact_id: Id) -> Response:
        return answer({"items": [wire.change_out(change) for change in library.history(artifact_id)]})


def _steps(api: APIRouter, library: SqlLibrary) -> None:
    @api.post("/artifacts/{artifact_id}/built", **allowed(*WORK), summary="It is built of these files")
    def built(artifact_id: Id, asked: wire.Files) -> Response:
        with _uploaded():
            return _state(artifact_id, library.accept_build(artifact_id, asked.entries()))

    @api.post("/artifacts/{artifact_id}/benchmark", **allowed(*WORK), summary="Take it for a benchmark")
    def begin_benchmark(artifact_id: Id) -> Response:
        return _state(artifact_id, library.begin_benchmark(artifact_id))

    @api.post("/artifacts/{artifact_id}/certify", **allowed(*WORK), summary="It passed, with this report")
    def certify(artifact_id: Id, asked: wire.Certify) -> Response:
        with _uploaded():
            return _state(artifact_id, library.accept_certificate(artifact_id, asked.report, asked.entries()))

    @api.post("/artifacts/{artifact_id}/reject", **allowed(*WORK), summary="It did not pass")
    def reject(artifact_id: Id, asked: wire.Verdict) -> Response:
        return _state(artifact_id, library.reject(artifact_id, asked.cause, asked.report))

    @api.post("/artifacts/{artifact_id}/noisy", **allowed(*WORK), summary="The machine was too restless")
    def noisy(artifact_id: Id, asked: wire.Verdict) -> Response:
        return _state(artifact_id, library.noisy(artifact_id, asked.cause, asked.report))

    @api.post("/artifacts/{artifact_id}/retire", **allowed(*RULE), summary="Take it out of use")
    def retire(artifact_id: Id, asked: wire.Cause) -> Response:
        return _state(artifact_id, library.retire(artifact_id, asked.cause))

    @api.post("/artifacts/{artifact_id}/retry", **allowed(*RULE), summary="Build a rejected one again")
    def retry(artifact_id: Id, asked: wire.Cause) -> Response:
        return _state(artifact_id, library.retry(artifact_id, asked.cause))


def _reports(api: APIRouter, library: SqlLibrary) -> None:
    @api.post("/field-reports", **allowed(*RUN), summary="How a seed did; each message id counts once")
    def field_report(asked: wire.NewFieldReport) -> Response:
        return answer({"new": library.field_report(asked.entry())})

    @api.get("/field-reports", **allowed(*READ), summary="Field reports, oldest first")
    def field_reports(
        run: After | None = None,
        blueprint: After | None = None,
        after: Annotated[int, Query(ge=0, lt=1 << 63)] = 0,
        limit: Limit = wire.PAGE,
    ) -> Response:
        found = library.field_report_page(run, blueprint, after, limit)
        items = [{"number": number, **asdict(report)} for number, report in found]
        return answer(_page(items, limit, lambda last: last["number"]))

    @api.post("/leases", **allowed(*RUN), summary="Hold artifacts for a run")
    def lease(asked: wire.TakeLease) -> Response:
        return answer({"expires_at": library.lease(asked.run, asked.artifacts, asked.seconds)})

    @api.post("/leases/release", **allowed(*RUN), summary="Give a run's leases up")
    def release(asked: wire.GiveUpLease) -> Response:
        return answer({"released": library.release(asked.run, asked.artifacts)})

    @api.get("/leases", **allowed(*READ), summary="Leases that have not ended")
    def leases(run: After | None = None) -> Response:
        return answer({"items": [asdict(lease) for lease in library.leases(run)]})

    @api.post("/collections", **allowed(*RULE), summary="Collect what nobody needs")
    def collect(asked: wire.Collect) -> Response:
        return answer(asdict(library.sweep(asked.older_than_seconds)))


def _bytes(api: APIRouter, library: SqlLibrary, files: Files) -> None:
    @api.post("/artifacts/{artifact_id}/uploads", **allowed(*WORK), summary="Where to put files not here")
    def uploads(artifact_id: Id, asked: wire.Files) -> Response:
        library.record(artifact_id)
        return answer({"missing": files.missing(asked.entries())})

    @api.get("/artifacts/{artifact_id}/bundle", **allowed(*READ), summary="Its files, or where they are")
    def bundle(artifact_id: Id) -> Response:
        return answer({"files": [files.shipped(file) for file in library.to_fetch(artifact_id)]})

    @api.put("/blobs/{digest}", **allowed(*WORK), summary="Upload bytes under their sha256")
    async def upload(digest: str, request: Request) -> Response:
        new = await files.receive(digest, request.stream())
        return answer({"digest": digest, "new": new}, 201 if new else 200)

    @api.get("/blobs/{digest}", **allowed(*READ), summary="The bytes of a sha256")
    def download(digest: str) -> Response:
        return files.send(digest)


@contextmanager
def _uploaded() -> Iterator[None]:
    """A blob that should be there is a conflict with what the caller believes, not a page that is missing."""
    try:
        yield
    except BlobMissing as error:
        raise NotUploaded(str(error)) from error


class NotUploaded(LibraryError):
    """A file was named whose bytes are not stored."""


def _state(artifact_id: str, state: State) -> Response:
    return answer({"artifact_id": artifact_id, "state": state.value})


def _states(values: Iterable[str]) -> list[State]:
    known = {state.value: state for state in State}
    unknown = [value for value in values if value not in known]
    if unknown:
        raise InvalidEntry(f"state {unknown[0][:64]!a}: must be one of {', '.join(known)}")
    return [known[value] for value in values]


def _text(value: str) -> str:
    if value and not value.isprintable():
        raise InvalidEntry("after: must be printable")
    return value


def _page(items: list[dict[str, Any]], limit: int, cursor: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    return {"items": items, "next": cursor(items[-1]) if len(items) == limit else None}
