"""``/healthz``, ``/readyz`` and ``/metrics`` of a process, from a thread of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from prometheus_client import CollectorRegistry, generate_latest

from esper.errors import BadInput, EsperError

LOOK_SECONDS = 1.0
"""Anybody may ask how a process is, so it is looked at no more often than this."""
READ_SECONDS = 5.0

Look = Callable[[], object]
"""Raises an ``EsperError`` when something is not as it should be."""


class StatusServer:
    """Says how a process is. A context manager.

    ``/healthz``: it works, or 503 when a restart is what helps. ``/readyz``: all it needs is there. Both answer with
    each thing by name: ``ok``, or the kind of error; no details, for anybody may ask.

    Args:
        registry: what ``/metrics`` shows.
        live, ready: looked at, at most once a second, when somebody asks; either may grow later on.
        host, port: where to listen; port 0 takes a free one.

    More pages come by :meth:`add`, each behind a token.

    Raises:
        BadInput: the address can't be listened on.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        live: Mapping[str, Look],
        ready: Mapping[str, Look],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/healthz": _Looked(live),
            "/readyz": _Looked(ready),
            "/metrics": lambda: (200, "text/plain; version=0.0.4", generate_latest(registry)),
        }
        try:
            self._server = _Server((host, port), self._pages)
        except (OSError, OverflowError) as error:
            raise BadInput(f"{host}:{port}: can't be listened on: {error}; set http_host and http_port") from error
        self.host, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="esper-status", daemon=True).start()

    def add(self, path: str, say: Callable[[], Mapping[str, Any]], token: Callable[[], str] | None) -> None:
        """Serve what ``say`` returns as JSON to who has the bearer token; without one, to this machine only.

        ``token`` is asked at every request, so that it may be renewed. It may raise an ``EsperError``: then nobody gets
        an answer.
        """
        open_to_all = token is None and self.host in ("127.0.0.1", "::1")
        self._server.guarded[path] = None if open_to_all else token or _nobody
        self._pages[path] = lambda: (200, "application/json", json.dumps(say()).encode() + b"\n")

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Seldom:
    """A look that takes time, or bothers somebody: what it found holds for so many seconds."""

    def __init__(self, look: Look, seconds: float) -> None:
        self._look, self._seconds = look, seconds
        self._at = float("-inf")
        self._found: EsperError | None = None

    def __call__(self) -> None:
        """See ``Look``."""
        if time.monotonic() >= self._at + self._seconds:
            self._found = None
            try:
                self._look()
            except EsperError as error:
                self._found = error
            self._at = time.monotonic()
        if self._found is not None:
            raise self._found


class _Looked:
    """The answer to a question, looked up at most once a second."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = looks
        self._lock = threading.Lock()
        self._at, self._seen = float("-inf"), dict[str, str]()

    def __call__(self) -> tuple[int, str, bytes]:
        with self._lock:
            if time.monotonic() >= self._at + LOOK_SECONDS:
                self._seen = {name: _state(look) for name, look in dict(self._looks).items()}
                self._at = time.monotonic()
            seen = self._seen
        status = 200 if set(seen.values()) <= {"ok"} else 503
        return status, "application/json", json.dumps(seen, sort_keys=True).encode() + b"\n"


def _nobody() -> str:
    return ""


def _state(look: Look) -> str:
    try:
        look()
    except EsperError as error:
        return type(error).__name__
    return "ok"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], pages: Mapping[str, Callable[[], tuple[int, str, bytes]]]) -> None:
        self.pages = pages
        self.guarded: dict[str, Callable[[], str] | None] = {}
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_SECONDS
    server: _Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        page = self.server.pages.get(path)
        if page is None:
            status, kind, body = 404, "text/plain", b"not found\n"
        elif not self._may_see(self.server.guarded.get(path)):
            status, kind, body = 401, "text/plain", b"a bearer token is needed; see status_token_file\n"
        else:
            status, kind, body = page()
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _may_see(self, token: Callable[[], str] | None) -> bool:
        if token is None:
            return True
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        try:
            known = token().encode()
        except EsperError:
            return False
        return bool(known) and compare_digest(shown, known)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; they are not worth a line each."""
