"""The service put together: paths, errors in one form, probes of its own health."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from esper.errors import LibraryError
from esper.urza.blobs import BlobStore
from esper.urza.s3 import S3Blobs
from esper.urza.service import problems, routes
from esper.urza.service.direct import Direct
from esper.urza.service.files import Files
from esper.urza.service.gate import Gate
from esper.urza.service.metrics import Metrics
from esper.urza.service.settings import ServiceSettings
from esper.urza.service.tokens import Tokens
from esper.urza.sql import SqlLibrary

READY_SECONDS = 1.0
_NOWHERE = "0" * 64


def create_app(
    library: SqlLibrary, tokens: Tokens, settings: ServiceSettings, signing: S3Blobs | None = None
) -> ASGIApp:
    """The service as an ASGI application; whoever calls this closes the library afterwards."""
    metrics = Metrics()
    files = Files(
        library.blobs, signing, url_seconds=settings.url_seconds, inline_bytes=settings.inline_bytes,
        cache_bytes=settings.cache_bytes,
    )  # fmt: skip
    app = FastAPI(
        title="Urza", version="1", summary="The kernel library of Esper.", lifespan=_lifespan(settings.threads),
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.include_router(routes.router(library, files))
    _health(app, library, tokens, metrics)
    _errors(app)
    return Gate(
        Direct(app, library), tokens, metrics, per_minute=settings.requests_per_minute,
        json_bytes=settings.max_json_bytes, blob_bytes=settings.max_blob_bytes,
    )  # fmt: skip


def check_blobs(blobs: BlobStore) -> None:
    """Make sure a blob store answers; raises ``LibraryUnavailable``."""
    blobs.info(_NOWHERE)


def _lifespan(threads: int) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = threads
        yield

    return running


def _health(app: FastAPI, library: SqlLibrary, tokens: Tokens, metrics: Metrics) -> None:
    @app.get("/healthz", summary="The process runs")
    async def healthz() -> Response:
        return routes.answer({"status": "ok"})

    looking = threading.Lock()
    seen: tuple[float, dict[str, str]] = (float("-inf"), {})

    @app.get("/readyz", summary="What it needs is there", responses={503: {"description": "something is away"}})
    def readyz() -> Response:
        nonlocal seen
        # Anybody may ask, so it is looked at no more than once in a while.
        with looking:
            if time.monotonic() >= seen[0] + READY_SECONDS:
                seen = time.monotonic(), _state_of(library, tokens)
            found = seen[1]
        return routes.answer(found, 200 if set(found.values()) == {"ok"} else 503)

    @app.get("/metrics", summary="For Prometheus")
    def metered() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _state_of(library: SqlLibrary, tokens: Tokens) -> dict[str, str]:
    """For each thing the service needs, ``ok`` or the kind of error it gave."""
    found = {}
    checks = {"database": library.check, "blobs": lambda: check_blobs(library.blobs), "keys": tokens.keys.check}
    for name, check in checks.items():
        try:
            check()
            found[name] = "ok"
        except LibraryError as error:
            found[name] = type(error).__name__
    return found


def _errors(app: FastAPI) -> None:
    def problem(request: Request, status: int, code: str, message: str) -> Response:
        return problems.answer(status, code, message, request.state.trace_id)

    @app.exception_handler(LibraryError)
    async def library_error(request: Request, error: LibraryError) -> Response:
        if isinstance(error, routes.NotUploaded):
            return problem(request, 409, "BlobMissing", str(error))
        return problems.response(error, request.state.trace_id)

    @app.exception_handler(HTTPException)
    async def framework_error(request: Request, error: HTTPException) -> Response:
        return problem(request, error.status_code, problems.code_of(error.status_code), str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        # Where and what, never the value: it may be long, or nobody's business.
        said = [f"{'.'.join(str(part) for part in item['loc'])[:200]}: {item['msg']}" for item in error.errors()[:5]]
        return problem(request, 422, "InvalidEntry", "; ".join(said))
