"""Opening everything the service needs, refusing to start without it, and serving until told to stop."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import structlog
import uvicorn
from starlette.types import ASGIApp

from esper.errors import LibraryError
from esper.logs import configure_logs
from esper.urza.blobs import BlobStore, DirectoryBlobs
from esper.urza.s3 import S3Blobs
from esper.urza.service.app import check_blobs, create_app
from esper.urza.service.settings import ServiceSettings
from esper.urza.service.tokens import Keys, Tokens, from_file, from_issuer
from esper.urza.sql import SqlLibrary

_LOG = structlog.get_logger("esper.urza")


def open_app(settings: ServiceSettings, stack: ExitStack) -> ASGIApp:
    """The application over opened parts, which ``stack`` closes.

    Raises:
        LibraryError: database, blob store or issuer can't be used, each with its name; nothing is served then.
    """
    blobs = _blobs(settings, stack)
    library = SqlLibrary(
        settings.database_url.get_secret_value(), blobs, busy_seconds=settings.database_wait_seconds, migrate=False
    )
    stack.callback(library.close)
    read = (
        from_file(settings.jwks_file)
        if settings.jwks_file
        else from_issuer(settings.issuer, settings.jwks_url, settings.jwks_ca_file, settings.jwks_token_file)
    )
    tokens = Tokens(
        Keys(read, settings.keys_seconds), issuer=settings.issuer, audience=settings.audience,
        leeway_seconds=settings.leeway_seconds, roles_claim=settings.roles_claim, subjects=settings.subjects,
    )  # fmt: skip
    public = settings.s3(public=True)
    signing = None
    if public is not None:
        signing = S3Blobs(public)
        stack.callback(signing.close)
    return create_app(library, tokens, settings, signing)


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT; requests that are running are finished first.

    Raises:
        LibraryError: see ``open_app``; also when the address can't be listened on.
    """
    configure_logs(settings.log_level)
    with ExitStack() as stack:
        app = open_app(settings, stack)
        listening = _listen(settings)
        stack.callback(listening.close)
        host, port = listening.getsockname()[:2]
        config = uvicorn.Config(
            app, access_log=False, log_config=None, timeout_graceful_shutdown=settings.shutdown_seconds,
            ssl_certfile=settings.tls_cert_file, ssl_keyfile=settings.tls_key_file, server_header=False,
            timeout_keep_alive=30, h11_max_incomplete_event_size=64 << 10,
        )  # fmt: skip
        _LOG.info("serving", host=host, port=port, tls=settings.tls_cert_file is not None)
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # The server raises the signal that ended it once more when it is done: in good order is no failure.
        signal.signal(signal.SIGTERM, stop)
        server.run(sockets=[listening])
        _LOG.info("stopped")


def migrate(settings: ServiceSettings) -> str:
    """Bring the database to this version's schema; returns its version."""
    from esper.urza.database import Database
    from esper.urza.schema import upgrade

    database = Database(settings.database_url.get_secret_value(), busy_seconds=60.0)
    try:
        return upgrade(database)
    finally:
        database.close()


def _blobs(settings: ServiceSettings, stack: ExitStack) -> BlobStore:
    bucket = settings.s3()
    if bucket is None:
        store: BlobStore = DirectoryBlobs(Path(settings.blobs))
        check_blobs(store)
        return store
    s3 = S3Blobs(bucket)
    stack.callback(s3.close)
    s3.probe()
    return s3


def _listen(settings: ServiceSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise LibraryError(
            f"{settings.host}:{settings.port}: can't be listened on: {error.strerror or error}; set host and port"
        ) from error
    return listening
