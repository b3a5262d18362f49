"""The one form errors have, and which status each kind of them gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from esper.errors import LibraryError
from esper.urza.errors import (
    AccessDenied,
    BlobMissing,
    InvalidEntry,
    LibraryFull,
    LibraryUnavailable,
    SchemaTooNew,
    SchemaTooOld,
    StateConflict,
    TooManyRequests,
    UnknownArtifact,
    UnknownBlueprint,
)

RETRY_SECONDS = 1
_STATUS: tuple[tuple[type[LibraryError], int], ...] = (
    (InvalidEntry, 422),
    (UnknownArtifact, 404),
    (UnknownBlueprint, 404),
    (BlobMissing, 404),
    (StateConflict, 409),
    (AccessDenied, 403),
    (TooManyRequests, 429),
    (LibraryFull, 507),
    (LibraryUnavailable, 503),
    (SchemaTooNew, 503),
    (SchemaTooOld, 503),
)
_CODES = {
    400: "BadRequest",
    401: "AccessDenied",
    403: "AccessDenied",
    404: "NotFound",
    405: "MethodNotAllowed",
    411: "LengthRequired",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    422: "InvalidEntry",
}


def too_large(message: str) -> HTTPException:
    """What is raised for a request body beyond its limit, while it is read."""
    return HTTPException(413, message)


def status_of(error: LibraryError) -> int:
    """The HTTP status of a library error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def code_of(status: int) -> str:
    """What an error without a kind of its own is called."""
    return _CODES.get(status, "Internal" if status >= 500 else "BadRequest")


def body(code: str, message: str, trace_id: str) -> bytes:
    """The error body; plain ASCII, whatever the message quotes."""
    return encoded({"error": {"code": code, "message": message[:4000], "trace_id": trace_id}})


def answer(status: int, code: str, message: str, trace_id: str) -> Response:
    """An error as it is answered."""
    return Response(body(code, message, trace_id), status, dict(headers_of(status)), "application/json")


def response(error: LibraryError, trace_id: str) -> Response:
    """The answer a library error stands for."""
    return answer(status_of(error), type(error).__name__, str(error), trace_id)


def encoded(value: Any) -> bytes:
    """JSON as plain ASCII: also text that has no place in UTF-8 can be written."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def headers_of(status: int) -> Mapping[str, str]:
    """What goes with an error."""
    if status in (429, 503):
        return {"Retry-After": str(RETRY_SECONDS)}
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}
