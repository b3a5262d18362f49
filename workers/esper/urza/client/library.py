"""The library's port over its service. What it fetches is verified here: the service and the store need no trust."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from esper.urza import checks, shelf, wire
from esper.urza.blobs import verified
from esper.urza.client.transport import Transport, TransportSettings
from esper.urza.errors import AccessDenied, BlobCorrupt, BlobMissing, InvalidEntry, LibraryError, NotFound
from esper.urza.library import (
    ArtifactFile,
    BlueprintRecord,
    Change,
    Count,
    FieldReport,
    KernelQuery,
    KernelRecord,
    Lease,
    Lineage,
    Report,
    State,
    Swept,
)
from esper.urza.wire import MAX_PAGE, ROOT, VERSION
from leyline.blueprint import BlueprintIR
from leyline.identity import ArtifactId
from leyline.interface import Interface

UPLOAD_TRIES = 3
"""How often files are sent again that were collected before the artifact could name them."""


class RemoteLibrary:
    """See ``Library`` for what each method promises; which of them a caller may use depends on its token's roles.

    Args:
        url: the service's, such as ``http://127.0.0.1:8460``.
        token: the bearer token, or what gives the current one (``token_from_file``).
        settings: how patient to be while the service is away.
        ca_file: certificates to trust instead of the system's.

    A call that was repeated because no answer came may find its own work done: ``field_report`` then says ``False``.

    Raises:
        AccessDenied: the token is not valid, or lacks the role; from every method.
        LibraryUnavailable: the service was away for longer than the settings' patience; from every method.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str],
        settings: TransportSettings | None = None,
        *,
        ca_file: Path | None = None,
    ) -> None:
        given = (lambda: token) if isinstance(token, str) else token
        self._service = Transport(url, given, settings or TransportSettings(), ca_file)

    def check(self, roles: Iterable[str]) -> None:
        """Make sure that the service is there, of this version, and lets this caller act in one of ``roles``.

        Raises:
            LibraryError: with what is wrong; ``AccessDenied`` for the token and its roles.
        """
        try:
            said = self._service.call("GET", f"{ROOT}/caller")
        except NotFound as error:
            raise LibraryError(
                f"{self._service.url}: has no {ROOT}/caller; is it the library's service, of this version?"
            ) from error
        wanted = set(roles)
        try:
            version, held = int(said["version"]), {str(role) for role in said["roles"]}
        except (KeyError, TypeError, ValueError) as error:
            raise LibraryError(f"{self._service.url}: does not answer as the library's service does") from error
        if version != VERSION:
            raise LibraryError(f"{self._service.url}: speaks version {version}, this client speaks {VERSION}")
        if wanted.isdisjoint(held):
            raise AccessDenied(
                f"{self._service.url}: the token of {said.get('subject')!r} has the roles {', '.join(sorted(held))}; "
                f"this needs {' or '.join(sorted(wanted))}"
            )

    def register_blueprint(
        self, name: str, ir: BlueprintIR, risk: float, approved: bool = False, parents: Iterable[str] = ()
    ) -> str:
        """See ``Library.register_blueprint``; ``approved`` needs the role admin."""
        checks.name(name)
        body = {"ir": ir.to_dict(), "risk": checks.risk(risk), "approved": approved, "parents": list(parents)}
        digest: str = self._service.call("PUT", f"{ROOT}/blueprints/{_part(name)}", body)["digest"]
        return digest

    def approve(self, blueprint: str, approved: bool = True) -> None:
        """See ``Library.approve``."""
        self._service.call("PUT", f"{ROOT}/approvals/{_part(checks.name(blueprint))}", {"approved": approved})

    def blueprint(self, blueprint: str) -> BlueprintRecord:
        """See ``Library.blueprint``."""
        return wire.blueprint_in(self._service.call("GET", f"{ROOT}/blueprints/{_part(checks.name(blueprint))}"))

    def blueprints(self) -> list[BlueprintRecord]:
        """See ``Library.blueprints``."""
        return [wire.blueprint_in(item) for item in self._pages(f"{ROOT}/blueprints")]

    def lineage(self, blueprint: str) -> Lineage:
        """See ``Library.lineage``."""
        said = self._service.call("GET", f"{ROOT}/lineage/{_part(checks.name(blueprint))}")
        return Lineage(said["digest"], tuple(said["ancestors"]), tuple(said["descendants"]))

    def begin(
        self,
        artifact_id: str | ArtifactId,
        blueprint: str,
        interface: Interface,
        strategy: str,
        hardware: str,
        toolchain: str,
    ) -> State:
        """See ``Library.begin``."""
        body = {
            "artifact_id": str(checks.artifact_id(artifact_id)), "blueprint": blueprint,
            "interface": interface.to_dict(), "strategy": strategy, "hardware": hardware, "toolchain": toolchain,
        }  # fmt: skip
        return State(self._service.call("POST", f"{ROOT}/artifacts", body)["state"])

    def built(self, artifact_id: str | ArtifactId, directory: Path | str) -> State:
        """See ``Library.built``."""
        identity = str(checks.artifact_id(artifact_id))
        return self._hand_in(identity, "built", shelf.read_directory(Path(directory), identity), {})

    def begin_benchmark(self, artifact_id: str | ArtifactId) -> State:
        """See ``Library.begin_benchmark``."""
        return self._step(artifact_id, "benchmark")

    def certify(self, artifact_id: str | ArtifactId, report: Mapping[str, Any], directory: Path | str) -> State:
        """See ``Library.certify``."""
        identity = str(checks.artifact_id(artifact_id))
        checked = checks.report(report)
        loaded = shelf.read_directory(Path(directory), identity)
        shelf.check_report([each.file for each in loaded], checked.digest, identity)
        return self._hand_in(identity, "certify", loaded, {"report": dict(report)})

    def reject(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """See ``Library.reject``."""
        return self._step(artifact_id, "reject", _verdict(cause, report))

    def noisy(self, artifact_id: str | ArtifactId, cause: str, report: Mapping[str, Any] | None = None) -> State:
        """See ``Library.noisy``."""
        return self._step(artifact_id, "noisy", _verdict(cause, report))

    def retire(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """See ``Library.retire``."""
        return self._step(artifact_id, "retire", {"cause": checks.cause(cause)})

    def retry(self, artifact_id: str | ArtifactId, cause: str) -> State:
        """See ``Library.retry``."""
        return self._step(artifact_id, "retry", {"cause": checks.cause(cause)})

    def record(self, artifact_id: str | ArtifactId) -> KernelRecord:
        """See ``Library.record``."""
        return wire.record_in(self._service.call("GET", _artifact(artifact_id)))

    def interface(self, artifact_id: str | ArtifactId) -> Interface:
        """See ``Library.interface``."""
        return wire.interface_of(self._service.call("GET", f"{_artifact(artifact_id)}/interface"))

    def records(self, states: Iterable[State] = ()) -> list[KernelRecord]:
        """See ``Library.records``."""
        asked = [State(state).value for state in states]
        query = {"state": asked} if asked else {}
        return [wire.record_in(item) for item in self._pages(f"{ROOT}/artifacts", **query)]

    def counts(self, states: Iterable[State] = ()) -> list[Count]:
        """See ``Library.counts``."""
        asked = [State(state).value for state in states]
        said = self._service.call("GET", f"{ROOT}/counts", query={"state": asked} if asked else {})
        return [wire.count_in(item) for item in said["items"]]

    def query(self, query: KernelQuery) -> list[KernelRecord]:
        """See ``Library.query``."""
        if query.limit is not None and query.limit < 0:
            raise InvalidEntry(f"query limit {query.limit}: must be at least 0")
        body = {
            "interface": query.interface.to_dict(), "hardware": query.hardware, "tags": list(query.tags),
            "max_risk": query.max_risk, "strategies": list(query.strategies), "toolchain": query.toolchain,
            "blueprints": None if query.blueprints is None else list(query.blueprints), "reports": True,
            "limit": MAX_PAGE if query.limit is None else max(1, min(query.limit, MAX_PAGE)),
        }  # fmt: skip
        found: dict[str, KernelRecord] = {}
        offset: int | None = 0
        while offset is not None and (query.limit is None or len(found) < max(1, query.limit)):
            page = self._service.call("POST", f"{ROOT}/kernels/query", {**body, "offset": offset}, read=wire.offers_in)
            for record in page.records:
                found.setdefault(record.artifact_id, record)
            offset = page.next
        return list(found.values())[: query.limit]

    def files(self, artifact_id: str | ArtifactId) -> list[ArtifactFile]:
        """See ``Library.files``."""
        return [wire.file_in(item) for item in self._service.call("GET", f"{_artifact(artifact_id)}/files")["items"]]

    def fetch(self, artifact_id: str | ArtifactId, into: Path | str) -> Path:
        """See ``Library.fetch``."""
        identity = str(checks.artifact_id(artifact_id))

        def once() -> Path:
            # Asked anew each time: a signed address may have ended while the store was away.
            said = self._service.call("GET", f"{_artifact(identity)}/bundle")["files"]
            files = [wire.file_in(item) for item in said]
            shelf.check_names(files, identity)
            return shelf.write_directory(files, _Shipment(self._service, said), Path(into), identity)

        return self._service.insist(once)

    def reports(self, artifact_id: str | ArtifactId) -> list[Report]:
        """See ``Library.reports``."""
        said = self._service.call("GET", f"{_artifact(artifact_id)}/reports")
        return [wire.report_in(item) for item in said["items"]]

    def history(self, artifact_id: str | ArtifactId) -> list[Change]:
        """See ``Library.history``."""
        said = self._service.call("GET", f"{_artifact(artifact_id)}/history")
        return [wire.change_in(item) for item in said["items"]]

    def field_report(self, report: FieldReport) -> bool:
        """See ``Library.field_report``."""
        checks.field_report(report)
        body = {name: getattr(report, name) for name in FieldReport.__slots__}
        body["measurements"] = dict(report.measurements)
        return bool(self._service.call("POST", f"{ROOT}/field-reports", body)["new"])

    def field_reports(self, run: str | None = None, blueprint: str | None = None) -> list[FieldReport]:
        """See ``Library.field_reports``."""
        query = {key: value for key, value in (("run", run), ("blueprint", blueprint)) if value is not None}
        return [wire.field_report_in(item) for item in self._pages(f"{ROOT}/field-reports", **query)]

    def lease(self, run: str, artifacts: Iterable[str | ArtifactId], seconds: float) -> float:
        """See ``Library.lease``."""
        wanted = [str(checks.artifact_id(artifact)) for artifact in artifacts]
        body = {"run": checks.printable(run, "run", 128), "artifacts": wanted, "seconds": checks.lease_seconds(seconds)}
        return float(self._service.call("POST", f"{ROOT}/leases", body)["expires_at"])

    def release(self, run: str, artifacts: Iterable[str | ArtifactId] | None = None) -> int:
        """See ``Library.release``."""
        wanted = None if artifacts is None else [str(checks.artifact_id(artifact)) for artifact in artifacts]
        body = {"run": checks.printable(run, "run", 128), "artifacts": wanted}
        return int(self._service.call("POST", f"{ROOT}/leases/release", body)["released"])

    def leases(self, run: str | None = None) -> list[Lease]:
        """See ``Library.leases``."""
        query = {} if run is None else {"run": checks.printable(run, "run", 128)}
        return [wire.lease_in(item) for item in self._service.call("GET", f"{ROOT}/leases", query=query)["items"]]

    def sweep(self, older_than_seconds: float = 86_400.0) -> Swept:
        """See ``Library.sweep``."""
        return Swept(**self._service.call("POST", f"{ROOT}/collections", {"older_than_seconds": older_than_seconds}))

    def close(self) -> None:
        """See ``Library.close``."""
        self._service.close()

    def _pages(self, path: str, **query: Any) -> Iterator[Mapping[str, Any]]:
        after: dict[str, Any] = {}
        while True:
            said = self._service.call("GET", path, query={"limit": MAX_PAGE, **query, **after})
            yield from said["items"]
            if said["next"] is None:
                return
            after = {"after": said["next"]}

    def _step(self, artifact_id: str | ArtifactId, step: str, body: Mapping[str, Any] | None = None) -> State:
        return State(self._service.call("POST", f"{_artifact(artifact_id)}/{step}", body)["state"])

    def _hand_in(self, identity: str, step: str, loaded: Sequence[shelf.Loaded], more: Mapping[str, Any]) -> State:
        """Send the files the service lacks, then say that the artifact is made of them."""
        listed = {"files": [{"name": f.name, "digest": f.digest, "size": f.size} for f in (x.file for x in loaded)]}
        by_digest = {each.file.digest: each.data for each in loaded}
        for tries in range(UPLOAD_TRIES):
            for wanted in self._service.call("POST", f"{_artifact(identity)}/uploads", listed)["missing"]:
                if wanted["digest"] in by_digest:
                    self._service.upload(wanted["url"], wanted["headers"], by_digest[wanted["digest"]])
            try:
                return self._step(identity, step, {**listed, **more})
            except BlobMissing:
                if tries + 1 == UPLOAD_TRIES:
                    raise
        raise AssertionError("the last try returns or raises")


class _Shipment:
    """The files of one answer: bytes that came along, or an address to get them from."""

    def __init__(self, service: Transport, said: Sequence[Mapping[str, Any]]) -> None:
        self._service = service
        self._said = {item["digest"]: item for item in said}

    def chunks(self, digest: str) -> Iterator[bytes]:
        """See ``BlobStore.chunks``."""
        item = self._said[digest]

        def damaged(size: int, actual: str) -> BlobCorrupt:
            return BlobCorrupt(
                f"{item['name']}: {size} bytes with digest {actual[:16]}… came instead of {digest[:16]}…; not used"
            )

        return verified(digest, self._pieces(item), damaged)

    def _pieces(self, item: Mapping[str, Any]) -> Iterator[bytes]:
        if "content" in item:
            try:
                yield base64.b64decode(item["content"], validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise LibraryError(f"{item['name']}: came in a form that can't be read") from error
            return
        size = 0
        for piece in self._service.download(item["url"]):
            size += len(piece)
            if size > item["size"]:
                raise BlobCorrupt(f"{item['name']}: more than the {item['size']} bytes announced; not used")
            yield piece


def _verdict(cause: str, report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is not None:
        checks.report(report)
    return {"cause": checks.cause(cause), "report": None if report is None else dict(report)}


def _artifact(artifact_id: str | ArtifactId) -> str:
    return f"{ROOT}/artifacts/{checks.artifact_id(artifact_id)}"


def _part(name: str) -> str:
    """A name as part of a path: a slash or a dot in it is no step in the path."""
    return quote(name, safe="").replace(".", "%2E")
